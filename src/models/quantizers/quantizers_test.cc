// Calibrated methods over whole models, importance and the walk through layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "models/quantizers/calibrated.h"
#include "models/quantizers/importance.h"
#include "models/quantizers/layer_walk.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
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
  const auto embedding = floats_of(*loaded.file->find_tensor("token_embd.weight"), pool_);
  const auto norm = floats_of(*loaded.file->find_tensor("blk.0.attn_norm.weight"), pool_);
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

}  // namespace
}  // namespace ashlar::models
