// GPTQ, AWQ, importance and the walk through layers, against plain loops in double precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "kernels/blocks.h"
#include "models/quantizers/calibrated.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/descent.h"
#include "models/quantizers/gptq.h"
#include "models/quantizers/importance.h"
#include "models/quantizers/layer_walk.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;
using testing::HasSubstr;

std::vector<float> normal(std::size_t n, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, deviation);
  std::vector<float> x(n);
  for (float& v : x) v = draw(random);
  return x;
}

// Rows whose columns lean on each other, some much larger than others.
std::vector<float> activations(std::size_t rows, std::size_t n) {
  const std::vector<float> hidden = normal(rows * 24, 1), mixing = normal(24 * n, 2), noise = normal(rows * n, 3, 0.3f);
  std::vector<float> x(rows * n);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < n; ++c) {
      float sum = noise[r * n + c];
      for (std::size_t k = 0; k < 24; ++k) sum += 0.3f * hidden[r * 24 + k] * mixing[k * n + c];
      x[r * n + c] = sum * (c % 37 == 5 ? 8.0f : 1.0f);
    }
  return x;
}

std::vector<double> mean_products(const std::vector<float>& x, std::size_t n) {
  std::vector<double> h(n * n);
  const std::size_t rows = x.size() / n;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        h[i * n + j] += double{x[r * n + i]} * double{x[r * n + j]} / static_cast<double>(rows);
  return h;
}

// What rounding w to `bytes` costs in outputs: the sum over rows of e^T H e.
double cost(const std::vector<float>& w, Type type, const std::vector<std::byte>& bytes, const std::vector<double>& h,
            std::size_t n) {
  std::vector<float> back(w.size());
  kernels::dequantize_row(type, bytes.data(), back.data(), static_cast<std::int64_t>(w.size()));
  double sum = 0;
  for (std::size_t r = 0; r < w.size() / n; ++r)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        sum += (double{back[r * n + i]} - double{w[r * n + i]}) * h[i * n + j] *
               (double{back[r * n + j]} - double{w[r * n + j]});
  return sum;
}

TEST(Dense, CholeskyGivesTheMatrixBack) {
  ThreadPool pool(2);
  for (const int n : {1, 5, 256, 300, 601}) {
    const auto size = static_cast<std::size_t>(n);
    const std::vector<float> b = normal(size * size, 4);
    std::vector<float> a(size * size);
    for (std::size_t i = 0; i < size; ++i)
      for (std::size_t j = 0; j < size; ++j) {
        double sum = i == j ? n : 0;
        for (std::size_t k = 0; k < size; ++k) sum += double{b[i * size + k]} * double{b[j * size + k]};
        a[i * size + j] = static_cast<float>(sum / n);
      }
    std::vector<float> r = a;
    ASSERT_TRUE(cholesky(r, n, pool));
    for (std::size_t i = 0; i < size; i += 7)
      for (std::size_t j = i; j < size; j += 3) {
        double sum = 0;
        for (std::size_t k = 0; k <= i; ++k) sum += double{r[k * size + i]} * double{r[k * size + j]};
        ASSERT_NEAR(sum, a[i * size + j], 2e-5) << n << " " << i << " " << j;
      }
  }
  std::vector<float> bad{1, 2, 2, 1};
  EXPECT_FALSE(cholesky(bad, 2, pool));
}

TEST(Dense, GramIsTheMeanOfProducts) {
  ThreadPool pool(2);
  constexpr std::size_t kColumns = 70, kRows = 1300;
  const std::vector<float> x = normal(kRows * kColumns, 5);
  ProductSum gram(kColumns);
  for (std::size_t r = 0; r < kRows; r += 325) ASSERT_TRUE(gram.add(x.data() + r * kColumns, kColumns, 325, pool));
  const auto mean = gram.mean(pool);
  ASSERT_TRUE(mean);
  const auto expected = mean_products(x, kColumns);
  for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR((*mean)[i], expected[i], 5e-4);
}

TEST(Gptq, LosesLessThanRoundingToNearest) {
  ThreadPool pool(2);
  constexpr std::size_t kColumns = 512, kRows = 24;
  const auto h = mean_products(activations(700, kColumns), kColumns);
  const std::vector<float> w = normal(kRows * kColumns, 6, 0.05f), single(h.begin(), h.end());
  for (const Type type : {Type::q4_0, Type::q4_1, Type::q5_0, Type::q2_k, Type::q3_k, Type::q4_k, Type::q5_k,
                          Type::q6_k, Type::iq4_nl, Type::iq4_xs}) {
    std::vector<std::byte> nearest(kernels::row_bytes(type, kColumns * kRows));
    kernels::quantize_row(type, w.data(), nearest.data(), kColumns * kRows);
    const double before = cost(w, type, nearest, h, kColumns);
    for (const bool order : {false, true}) {
      const auto curvature = Curvature::create(single, kColumns, {.activation_order = order}, pool);
      ASSERT_TRUE(curvature);
      const auto made = gptq(w, {}, type, *curvature, pool);
      ASSERT_TRUE(made);
      EXPECT_LT(cost(w, type, *made, h, kColumns), 0.6 * before) << kernels::type_info(type).name << order;
    }
  }
}

// What is asked for is the output of inputs that are no longer there.
TEST(Gptq, AimsAtTheOutputOfTheInputsAsTheyWere) {
  ThreadPool pool(2);
  constexpr std::size_t n = 320, kRows = 6, kTokens = 900;
  const std::vector<float> was = activations(kTokens, n), noise = normal(kTokens * n, 21, 0.1f);
  std::vector<float> is = was;
  for (std::size_t i = 0; i < is.size(); ++i) is[i] = 0.9f * was[i] + noise[i] * was[i / n * n + (i + 7) % n];
  const std::vector<float> w = normal(kRows * n, 22, 0.05f);
  const auto h = mean_products(is, n);
  std::vector<float> b(w.size());
  for (std::size_t r = 0; r < kRows; ++r)
    for (std::size_t t = 0; t < kTokens; ++t) {
      double off = 0;
      for (std::size_t i = 0; i < n; ++i)
        off += double{w[r * n + i]} * (double{was[t * n + i]} - double{is[t * n + i]});
      for (std::size_t i = 0; i < n; ++i) b[r * n + i] += static_cast<float>(off * double{is[t * n + i]} / kTokens);
    }
  const auto error = [&](std::span<const float> aim, bool order) {
    const auto curvature =
        Curvature::create(std::vector<float>(h.begin(), h.end()), n, {.activation_order = order}, pool);
    const auto made = gptq(w, aim, Type::q4_0, *curvature, pool);
    std::vector<float> back(w.size());
    kernels::dequantize_row(Type::q4_0, made->data(), back.data(), static_cast<std::int64_t>(w.size()));
    double sum = 0;
    for (std::size_t t = 0; t < kTokens; ++t)
      for (std::size_t r = 0; r < kRows; ++r) {
        double y = 0;
        for (std::size_t i = 0; i < n; ++i)
          y += double{w[r * n + i]} * double{was[t * n + i]} - double{back[r * n + i]} * double{is[t * n + i]};
        sum += y * y;
      }
    return sum;
  };
  for (const bool order : {false, true}) EXPECT_LT(error(b, order), 0.8 * error({}, order)) << order;
}

TEST(Descent, NeverRaisesTheCost) {
  ThreadPool pool(2);
  constexpr std::size_t n = 512, kRows = 10;
  const auto h = mean_products(activations(700, n), n);
  const std::vector<float> w = normal(kRows * n, 8, 0.05f), b = normal(kRows * n, 9, 0.002f);
  const Pieces pieces = [&](int row, int rows, int column, int columns, float* to) {
    for (int r = row; r < row + rows; ++r)
      for (int c = column; c < column + columns; ++c)
        *to++ = static_cast<float>(h[static_cast<std::size_t>(r) * n + static_cast<std::size_t>(c)]);
  };
  for (const Type type : {Type::q4_0, Type::q4_1, Type::q5_0, Type::q5_1, Type::q8_0, Type::q2_k, Type::q3_k,
                          Type::q4_k, Type::q5_k, Type::q6_k, Type::iq4_nl, Type::iq4_xs}) {
    const auto whole = [&](const std::vector<std::byte>& bytes) {
      std::vector<float> back(w.size());
      kernels::dequantize_row(type, bytes.data(), back.data(), static_cast<std::int64_t>(w.size()));
      double sum = cost(w, type, bytes, h, n);
      for (std::size_t i = 0; i < w.size(); ++i) sum -= 2 * double{b[i]} * (double{back[i]} - double{w[i]});
      return sum;
    };
    std::vector<std::byte> bytes(kernels::row_bytes(type, kRows * n));
    kernels::quantize_row(type, w.data(), bytes.data(), kRows * n);
    Descent descent(type, pieces, n, pool);
    for (int round = 0; round < 3; ++round) {
      const double before = whole(bytes);
      ASSERT_TRUE(descent.run(w, b, bytes, 1));
      const double after = whole(bytes);
      EXPECT_LT(after, before + 1e-6 * std::abs(before)) << kernels::type_info(type).name << " " << round;
      if (round == 0) {
        EXPECT_LT(after, 0.9 * before) << kernels::type_info(type).name;
      }
    }
  }
}

// The paper's algorithm as it is written, with an inverse, in double precision, on Q8_0's scales.
TEST(Gptq, FollowsThePaper) {
  ThreadPool pool(1);
  constexpr std::size_t n = 64;
  const auto h = mean_products(activations(300, n), n);
  const std::vector<float> w = normal(n, 7, 0.05f), single(h.begin(), h.end());
  // A coarse, fixed grid is had by giving act-order no order to change: all scales are chosen beforehand then.
  std::vector<float> flat = single;
  const auto curvature = Curvature::create(flat, n, {.activation_order = true, .rounds = 0}, pool);
  const auto made = gptq(w, {}, Type::q4_0, *curvature, pool);
  ASSERT_TRUE(made);
  std::vector<float> result(n);
  kernels::dequantize_row(Type::q4_0, made->data(), result.data(), n);
  std::vector<double> importance(n), rest(w.begin(), w.end()), inverse(n * n), a = h;
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += h[i * n + i] / n;
  for (std::size_t i = 0; i < n; ++i) a[i * n + i] += 0.01 * mean;
  std::vector<bool> done(n);
  for (std::size_t step = 0; step < n; ++step) {
    std::size_t next = n;  // the column of the largest mean square; of equal ones the first in reverse order
    for (std::size_t i = 0; i < n; ++i)
      if (!done[i] && (next == n || single[i * n + i] >= single[next * n + next])) next = i;
    // Row `next` of the inverse over what is left, by elimination: solve A y = unit.
    std::vector<std::size_t> left;
    for (std::size_t i = 0; i < n; ++i)
      if (!done[i]) left.push_back(i);
    std::vector<std::vector<double>> m(left.size(), std::vector<double>(left.size() + 1));
    for (std::size_t i = 0; i < left.size(); ++i) {
      for (std::size_t j = 0; j < left.size(); ++j) m[i][j] = a[left[i] * n + left[j]];
      m[i].back() = left[i] == next ? 1 : 0;
    }
    for (std::size_t i = 0; i < left.size(); ++i)
      for (std::size_t r = 0; r < left.size(); ++r) {
        if (r == i) continue;
        const double factor = m[r][i] / m[i][i];
        for (std::size_t c = i; c <= left.size(); ++c) m[r][c] -= factor * m[i][c];
      }
    std::size_t at = 0;
    while (left[at] != next) ++at;
    const double error = (rest[next] - result[next]) / (m[at].back() / m[at][at]);
    // What it rounded to is the nearest that its block's scale allows.
    std::uint16_t d;
    std::memcpy(&d, made->data() + next / 32 * 18, 2);
    const double scale = kernels::f16_to_f32(d), low = std::min(-8 * scale, 7 * scale),
                 high = low + 15 * std::abs(scale);
    EXPECT_LE(std::abs(std::clamp(rest[next], low, high) - result[next]), 0.502 * std::abs(scale) + 1e-5) << step;
    for (std::size_t i = 0; i < left.size(); ++i) rest[left[i]] -= error * m[i].back() / m[i][i];
    done[next] = true;
  }
}

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
