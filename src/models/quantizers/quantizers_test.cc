// Calibrated methods over whole models, importance and the walk through layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "models/quantizers/calibrated.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/expert_rounding.h"
#include "models/quantizers/gptq.h"
#include "models/quantizers/importance.h"
#include "models/quantizers/layer_walk.h"
#include "models/quantizers/output_error_test.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;
using testing::HasSubstr;

class Calibrated : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(std::string_view name) const { return folder_ / name; }
  LoadedModel model(TinySpec spec = {.width = 256, .hidden = 512, .heads = 4, .head_dim = 64}) {
    CHECK(TinyModel(spec).writer().write(path("in.gguf")).has_value(), "temporary files can be written");
    return open_model(gguf::File::open(path("in.gguf")).value()).value();
  }
  std::vector<std::int32_t> tokens(int count = 256) const {
    std::vector<std::int32_t> out;
    for (int i = 0; i < count; ++i) out.push_back((i * 7 + i * i / 5) % 40);
    return out;
  }
  Status make(const LoadedModel& loaded, Method method, std::string_view type, bool resume,
              const CalibrationWatch& watch) {
    QuantizePlan plan = TRY(plan_quantize(loaded, *find_mix(type), {}));
    const auto text = tokens();
    const Calibration calibration{
        .method = method, .tokens = text, .window = 64, .folder = path("layers"), .resume = resume};
    const auto layers = TRY(make_layers(loaded, plan, calibration, pool_, watch));
    auto out = TRY(NewFile::create(path("out.gguf"), true));
    TRY(quantize(loaded, plan, pool_, [](std::int64_t, std::string_view) -> Status { return {}; }, out));
    return out.commit();
  }
  std::vector<float> logits(const std::string& file) {
    auto loaded = load(file, {}, pool_).value();
    const auto kv = loaded.model->make_kv_store(2, KvType::f16).value();
    const auto text = tokens(32);
    const int blocks[] = {0, 1}, rows[] = {15, 31};
    const Step::Sequence sequences[] = {{.rows = 32, .blocks = blocks}};
    std::vector<float> out(2 * static_cast<std::size_t>(loaded.shape.vocabulary));
    loaded.model->forward({text, sequences, rows, out}, *kv);
    return out;
  }

  ThreadPool pool_{2};
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_calibrated_" + std::to_string(::getpid()));
};

TEST_F(Calibrated, ImportanceIsTheMeanSquareOfInputs) {
  const LoadedModel loaded = model();
  const auto text = tokens();
  const auto measured =
      measure_importance(loaded, text, 64, pool_, [](std::int64_t, std::int64_t) -> Status { return {}; });
  ASSERT_TRUE(measured) << measured.error().message;
  EXPECT_EQ(measured->entries.size(), 14u);  // seven matrices in two layers
  // The first norm's output, by hand.
  const auto embedding = floats_of(*loaded.file, *loaded.file->find_tensor("token_embd.weight"), pool_).value();
  const auto norm = floats_of(*loaded.file, *loaded.file->find_tensor("blk.0.attn_norm.weight"), pool_).value();
  std::vector<double> expected(256);
  for (const std::int32_t token : text) {
    const float* x = embedding.data() + 256 * token;
    double square = 1e-5 * 256;
    for (int i = 0; i < 256; ++i) square += double{x[i]} * double{x[i]};
    for (std::size_t i = 0; i < 256; ++i) expected[i] += std::pow(x[i] * double{norm[i]}, 2) * 256 / square;
  }
  const auto& sums = measured->entries.at("blk.0.attn_q.weight").sums;
  for (std::size_t i = 0; i < 256; ++i) ASSERT_NEAR(sums[i], expected[i], 1e-3 * expected[i] + 1e-6);
  EXPECT_EQ(measured->entries.at("blk.0.attn_v.weight").sums, sums);
  EXPECT_EQ(measured->entries.at("blk.1.ffn_down.weight").sums.size(), 512u);

  std::ofstream(path("new.gguf"), std::ios::binary) << importance_file(*measured);
  const auto again = read_importance(path("new.gguf"));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->entries.at("blk.0.attn_q.weight").sums, sums);
  EXPECT_EQ(again->window, 64);
  EXPECT_TRUE(check_importance(*again, loaded, "new.gguf"));
  const LoadedModel other = model({.width = 128, .hidden = 512, .heads = 2, .kv_heads = 2, .head_dim = 64});
  EXPECT_THAT(check_importance(*again, other, "new.gguf").error().message, HasSubstr("measured on another model"));
}

TEST_F(Calibrated, ReadsTheOldFormAndRefusesWhatIsNeither) {
  std::string bytes;
  const auto number = [&](std::int32_t v) { bytes.append(reinterpret_cast<const char*>(&v), 4); };
  const auto text = [&](std::string_view t) { number(static_cast<std::int32_t>(t.size())), bytes += t; };
  number(1), text("blk.0.attn_q.weight"), number(4), number(2);
  for (const float v : {8.0f, 2.0f}) bytes.append(reinterpret_cast<const char*>(&v), 4);
  number(4), text("t.txt");
  std::ofstream(path("old.dat"), std::ios::binary) << bytes;
  const auto read = read_importance(path("old.dat"));
  ASSERT_TRUE(read) << read.error().message;
  const gguf::Tensor tensor{.name = "blk.0.attn_q.weight", .rank = 2, .dims = {2, 3, 1, 1}};
  EXPECT_EQ(read->weights_of(tensor), (std::vector<float>{2, 0.5f}));
  EXPECT_EQ(read->texts, std::vector<std::string>{"t.txt"});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    if (size == 43) continue;  // after the entries: the oldest form
    std::ofstream(path("cut.dat"), std::ios::binary) << bytes.substr(0, size);
    EXPECT_FALSE(read_importance(path("cut.dat"))) << size;
  }
  bytes[0] = '\xff', bytes[3] = '\x7f';
  std::ofstream(path("cut.dat"), std::ios::binary) << bytes;
  EXPECT_THAT(read_importance(path("cut.dat")).error().message, HasSubstr("a count in it is impossible"));
}

TEST_F(Calibrated, EveryMethodKeepsWhatTheModelComputes) {
  for (const TinySpec& spec :
       {TinySpec{.width = 64, .hidden = 96, .heads = 4, .head_dim = 16}, TinySpec{.architecture = "qwen2",
                                                                                  .width = 64,
                                                                                  .hidden = 96,
                                                                                  .heads = 4,
                                                                                  .head_dim = 16,
                                                                                  .halves = true,
                                                                                  .qkv_bias = true}}) {
    const LoadedModel loaded = model(spec);
    const auto before = logits(path("in.gguf"));
    for (const Method method : {Method::gptq, Method::awq, Method::smoothquant}) {
      const auto made = make(loaded, method, "Q8_0", false, [](double, int) -> Status { return {}; });
      ASSERT_TRUE(made) << made.error().message;
      const auto after = logits(path("out.gguf"));
      double off = 0, all = 0;
      for (std::size_t i = 0; i < before.size(); ++i) {
        off += std::pow(after[i] - before[i], 2);
        all += std::pow(before[i], 2);
      }
      EXPECT_LT(off, 0.003 * all) << name_of(method) << " " << spec.architecture;
    }
  }
}

TEST_F(Calibrated, GoesOnWhereItWasStopped) {
  const LoadedModel loaded = model();
  const CalibrationWatch go_on = [](double, int) -> Status { return {}; };
  ASSERT_TRUE(make(loaded, Method::gptq, "Q4_K_S", false, go_on));
  std::ifstream first(path("out.gguf"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(first), {}};
  fs::remove(path("out.gguf"));
  remove_layers(path("layers"), 2);
  EXPECT_FALSE(fs::exists(path("layers")));
  const auto stopped = make(loaded, Method::gptq, "Q4_K_S", false, [](double, int layer) -> Status {
    if (layer == 1) return Error{Code::cancelled, "stop"};
    return {};
  });
  EXPECT_EQ(stopped.error().code, Code::cancelled);
  EXPECT_FALSE(fs::exists(path("out.gguf")));
  bool measured_first = false;
  double last = 0;
  ASSERT_TRUE(make(loaded, Method::gptq, "Q4_K_S", true, [&](double done, int layer) -> Status {
    measured_first |= layer == 0 && done < 0.4;
    EXPECT_GE(done, last);
    last = done;
    return {};
  }));
  EXPECT_FALSE(measured_first);
  std::ifstream second(path("out.gguf"), std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(second), {}), whole);
  EXPECT_THAT(make(loaded, Method::awq, "Q4_K_S", true, go_on).error().message, HasSubstr("belongs to other work"));
}

TEST_F(Calibrated, NamesTheTensorThatIsNotFinite) {
  const TinyModel tiny({.width = 256, .hidden = 512, .heads = 4, .head_dim = 64});
  std::string bytes = tiny.writer().bytes().value();
  {
    const LoadedModel loaded = model();
    const auto data = loaded.file->find_tensor("blk.1.ffn_up.weight")->data;
    const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
    const float bad = std::nanf("");
    bytes.replace(at + 400, 4, reinterpret_cast<const char*>(&bad), 4);
  }
  std::ofstream(path("bad.gguf"), std::ios::binary) << bytes;
  const LoadedModel loaded = open_model(gguf::File::open(path("bad.gguf")).value()).value();
  const auto made = make(loaded, Method::gptq, "Q4_0", false, [](double, int) -> Status { return {}; });
  EXPECT_THAT(made.error().message, HasSubstr("tensor 'blk.1.ffn_up.weight' holds a value that is not finite"));
  EXPECT_FALSE(fs::exists(path("out.gguf")));
}

const TinySpec kExperts{.architecture = "qwen3moe",
                        .width = 256,
                        .hidden = 256,
                        .heads = 4,
                        .head_dim = 64,
                        .halves = true,
                        .head_norms = true,
                        .experts = 6,
                        .experts_used = 2,
                        .expert_hidden = 256,
                        .normalize = true};

TEST_F(Calibrated, ImportanceOfExpertsCountsTheRowsThatAreRoutedToEach) {
  const LoadedModel loaded = model(kExperts);
  const auto text = tokens();
  const auto measured =
      measure_importance(loaded, text, 64, pool_, [](std::int64_t, std::int64_t) -> Status { return {}; });
  ASSERT_TRUE(measured) << measured.error().message;
  for (const char* part : {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"})
    for (const char* blk : {"blk.0.", "blk.1."}) {
      const auto& entry = measured->entries.at(std::string(blk) + part + ".weight");
      EXPECT_EQ(entry.sums.size(), 6u * 256u);
      ASSERT_EQ(entry.counts.size(), 6u);
      double rows = 0;
      for (const float count : entry.counts) rows += count;
      EXPECT_EQ(rows, 2.0 * static_cast<double>(text.size()));
    }
  // Every row goes to two experts, so over all of them the sums of gate are twice those of the router.
  const auto& gate = measured->entries.at("blk.1.ffn_gate_exps.weight").sums;
  const auto& router = measured->entries.at("blk.1.ffn_gate_inp.weight").sums;
  for (std::size_t c = 0; c < 256; ++c) {
    double sum = 0;
    for (std::size_t e = 0; e < 6; ++e) sum += double{gate[e * 256 + c]};
    ASSERT_NEAR(sum, 2 * double{router[c]}, 1e-4 * sum) << c;
  }
  std::ofstream(path("new.gguf"), std::ios::binary) << importance_file(*measured);
  const auto again = read_importance(path("new.gguf"));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(check_importance(*again, loaded, "new.gguf"));
  EXPECT_EQ(again->entries.at("blk.1.ffn_down_exps.weight").counts,
            measured->entries.at("blk.1.ffn_down_exps.weight").counts);
  // Means of each expert are its own.
  const auto weights = again->weights_of(*loaded.file->find_tensor("blk.1.ffn_gate_exps.weight"));
  const auto& counts = measured->entries.at("blk.1.ffn_gate_exps.weight").counts;
  for (std::size_t i = 0; i < weights.size(); i += 37) {
    const float expected = counts[i / 256] > 0 ? gate[i] / counts[i / 256] : 1;
    EXPECT_EQ(weights[i], expected);
  }
}

TEST_F(Calibrated, ExpertsAreRoundedByWhatIsRoutedToThem) {
  const LoadedModel loaded = model(kExperts);
  const auto before = logits(path("in.gguf"));
  const auto error_of = [&](Method method, const char* type) {
    const auto made = make(loaded, method, type, false, [](double, int) -> Status { return {}; });
    EXPECT_TRUE(made) << made.error().message;
    const auto after = logits(path("out.gguf"));
    double off = 0, all = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      off += std::pow(after[i] - before[i], 2);
      all += std::pow(before[i], 2);
    }
    return off / all;
  };
  for (const Method method : {Method::gptq, Method::awq, Method::smoothquant})
    EXPECT_LT(error_of(method, "Q8_0"), 0.01) << name_of(method);

  // Against rounding to nearest, by the rows that each expert saw.
  LoadedModel same = model(kExperts);
  const auto text = tokens(1024);
  auto walk = LayerWalk::create(same, text, 64, pool_).value();
  ASSERT_TRUE(walk->load(0));
  std::map<int, std::vector<float>> seen;
  ASSERT_TRUE(walk->pass(false, {}, {}, [&](const LayerWalk::Product& product, float* h, std::size_t ld, int rows) {
    if (!product.tensors.front()->name.ends_with("gate_exps.weight")) return;
    for (int r = 0; r < rows; ++r) {
      const float* row = h + static_cast<std::size_t>(r) * ld;
      seen[product.expert].insert(seen[product.expert].end(), row, row + 256);
    }
  }));
  const GptqOptions options;
  const auto made = round_experts(*walk, [](const gguf::Tensor&) { return Type::q4_0; }, &options, pool_, {});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->products, 12);
  EXPECT_EQ(made->tensors.size(), 3u);
  const gguf::Tensor& gate = *loaded.file->find_tensor("blk.0.ffn_gate_exps.weight");
  const auto found = std::ranges::find(made->tensors, gate.name, [](const auto& t) { return t.tensor->name; });
  ASSERT_NE(found, made->tensors.end());
  const auto w = floats_of(*loaded.file, gate, pool_).value();
  const std::size_t each = 256 * 256, bytes = found->bytes.size() / 6;
  int better = 0, judged = 0;
  for (const auto& [expert, rows] : seen) {
    if (rows.size() < 64 * 256) continue;
    const auto from = w.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(expert) * each);
    const std::vector<float> own(from, from + each);
    std::vector<std::byte> nearest(bytes);
    kernels::quantize_row(Type::q4_0, own.data(), nearest.data(), each);
    const auto h = mean_products(rows, 256);
    const auto at = found->bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(expert) * bytes);
    const std::vector<std::byte> ours(at, at + static_cast<std::ptrdiff_t>(bytes));
    ++judged;
    better += cost(own, Type::q4_0, ours, h, 256) < 0.9 * cost(own, Type::q4_0, nearest, h, 256) ? 1 : 0;
  }
  EXPECT_GE(judged, 3);
  EXPECT_EQ(better, judged);
}

}  // namespace
}  // namespace ashlar::models
