// Every encoder against a plain forward pass in double precision, on every instruction set, and against itself
// however its texts are put together.
#include "models/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/kernels.h"
#include "models/decoder_encoder.h"
#include "models/loader.h"
#include "models/tiny_encoder_test.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

using kernels::Type;
using testing::HasSubstr;

// f16 keys and values; int8 activations; tiles that round to bf16 (see transformer_test).
constexpr double kFine = 3e-3, kQuantized = 8e-2, kTiles = 5e-2;

struct Case {
  std::string name;
  TinyEncoderSpec spec;
  double tolerance = kFine;  // of a vector, relative to its root mean square
};

std::vector<Case> cases() {
  const TinyEncoderSpec bert;
  const TinyEncoderSpec nomic{.architecture = "nomic-bert", .fused = true, .biases = false};
  const auto with = [](TinyEncoderSpec spec, auto change) {
    change(spec);
    return spec;
  };
  const auto wide = [](TinyEncoderSpec& s) { s.width = 64, s.heads = 4, s.hidden = 96, s.type = Type::q8_0; };
  return {
      {"bert", bert},
      {"bert_cls", with(bert, [](TinyEncoderSpec& s) { s.pooling = 2, s.layers = 3; })},
      {"bert_last", with(bert, [](TinyEncoderSpec& s) { s.pooling = 3; })},
      {"bert_says_no_pooling", with(bert, [](TinyEncoderSpec& s) { s.pooling = -1; })},
      {"bert_no_types", with(bert, [](TinyEncoderSpec& s) { s.types = 0; })},
      {"bert_fused", with(bert, [](TinyEncoderSpec& s) { s.fused = true; })},
      {"bert_tanh", with(bert, [](TinyEncoderSpec& s) { s.tanh_gelu = true; })},
      {"bert_one_head", with(bert, [](TinyEncoderSpec& s) { s.heads = 1, s.seed = 3; })},
      {"bert_ranks", with(bert, [](TinyEncoderSpec& s) { s.pooling = 4, s.dense = true, s.labels = 1; })},
      {"bert_ranks_unsaid", with(bert, [](TinyEncoderSpec& s) { s.pooling = -1, s.labels = 3; })},
      {"bert_ranks_dense", with(bert, [](TinyEncoderSpec& s) { s.pooling = 4, s.dense = true; })},
      {"bert_f16", with(bert, [](TinyEncoderSpec& s) { s.type = Type::f16; })},
      {"bert_q8_0", with(bert, wide), kQuantized},
      {"nomic", nomic},
      {"nomic_cls", with(nomic, [](TinyEncoderSpec& s) { s.pooling = 2, s.fused = false; })},
      {"nomic_q8_0", with(nomic, wide), kQuantized},
  };
}

struct Loaded {
  ThreadPool pool;
  TinyEncoder tiny;
  LoadedModel loaded;

  explicit Loaded(const TinyEncoderSpec& spec, int threads = 1) : pool(threads), tiny(spec) {
    auto result = load_tiny(tiny.writer(), pool);
    CHECK(result.has_value(), result.error().message.c_str());
    loaded = std::move(*result);
  }
  static Result<LoadedModel> load_tiny(const gguf::Writer& writer, ThreadPool& pool) {
    const std::string text = writer.bytes().value();
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    return load(TRY(gguf::File::in_memory({bytes, bytes + text.size()}, "tiny.gguf")), {.max_rows = 64}, pool);
  }
  Encoder& encoder() { return *loaded.encoder; }
};

using Text = std::vector<std::int32_t>;

Text random_text(int count, unsigned seed) {
  std::mt19937 random(seed);
  Text tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(static_cast<std::int32_t>(random() % 40));
  return tokens;
}

// The first half of a text is of type 0.
std::vector<std::uint8_t> types_of(std::size_t count) {
  std::vector<std::uint8_t> types(count, 1);
  std::fill_n(types.begin(), count / 2, std::uint8_t{0});
  return types;
}

std::vector<std::vector<float>> encode(Encoder& encoder, const std::vector<Text>& texts, bool with_types = false) {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> types;
  std::vector<int> lengths;
  for (const Text& text : texts) {
    tokens.insert(tokens.end(), text.begin(), text.end());
    const auto of = types_of(text.size());
    if (with_types) types.insert(types.end(), of.begin(), of.end());
    lengths.push_back(static_cast<int>(text.size()));
  }
  const auto width = static_cast<std::size_t>(encoder.outputs());
  std::vector<float> out(texts.size() * width);
  encoder.encode({tokens, types, lengths, out});
  std::vector<std::vector<float>> rows;
  for (std::size_t i = 0; i < texts.size(); ++i)
    rows.emplace_back(out.begin() + static_cast<std::ptrdiff_t>(i * width),
                      out.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return rows;
}

double distance(const std::vector<double>& expected, const std::vector<float>& found) {
  double squares = 0, worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    squares += expected[i] * expected[i];
    worst = std::max(worst, std::abs(expected[i] - static_cast<double>(found.at(i))));
  }
  return worst / std::max(0.3, std::sqrt(squares / static_cast<double>(expected.size())));
}

class EveryEncoder : public testing::TestWithParam<Case> {
 protected:
  ~EveryEncoder() override { EXPECT_TRUE(kernels::select_isa("auto")); }
};

TEST_P(EveryEncoder, ComputesWhatThePlainPassComputes) {
  const std::vector<Text> texts{random_text(1, 1), random_text(16, 2), random_text(47, 3)};
  for (const kernels::Kernels* row : kernels::kernel_rows()) {
    ASSERT_TRUE(kernels::select_isa(row->isa));
    Loaded model(GetParam().spec);
    const bool types = GetParam().spec.types > 1;
    const auto found = encode(model.encoder(), texts, types);
    const double tolerance = GetParam().tolerance + (std::string_view(row->isa) == "amx" ? kTiles : 0);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto of = types ? types_of(texts[i].size()) : std::vector<std::uint8_t>();
      EXPECT_LT(distance(model.tiny.encode(texts[i], of), found[i]), tolerance) << row->isa << " " << i;
    }
  }
}

TEST_P(EveryEncoder, DoesNotCareWhichTextsAreReadTogether) {
  Loaded model(GetParam().spec), threads(GetParam().spec, 3);
  const std::vector<Text> texts{random_text(5, 1), random_text(16, 2), random_text(30, 3), random_text(1, 4)};
  const auto together = encode(model.encoder(), texts);
  EXPECT_EQ(encode(threads.encoder(), texts), together);
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(encode(model.encoder(), {texts[i]})[0], together[i]);
  EXPECT_EQ(encode(model.encoder(), {texts[2], texts[0]}), (std::vector{together[2], together[0]}));
}

INSTANTIATE_TEST_SUITE_P(Encoder, EveryEncoder, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Encoder, SaysWhatItGives) {
  Loaded mean({}), rank({.pooling = 4, .dense = true, .labels = 2});
  EXPECT_EQ(mean.encoder().pooling(), Pooling::mean);
  EXPECT_EQ(mean.encoder().outputs(), 32);
  EXPECT_EQ(mean.encoder().max_tokens(), 64);
  EXPECT_EQ(mean.loaded.model, nullptr);
  EXPECT_EQ(rank.encoder().pooling(), Pooling::rank);
  EXPECT_EQ(rank.encoder().outputs(), 2);
}

TEST(Encoder, RefusesWhatItWouldComputeWrongly) {
  ThreadPool pool(1);
  const auto refusal = [&](TinyEncoderSpec spec, auto change) {
    TinyEncoder tiny(spec);
    change(tiny.writer());
    const auto loaded = Loaded::load_tiny(tiny.writer(), pool);
    return loaded ? std::string("loaded") : loaded.error().message;
  };
  const auto nothing = [](gguf::Writer&) {};
  EXPECT_THAT(refusal({.pooling = 4}, nothing), HasSubstr("cls.weight"));
  EXPECT_THAT(refusal({.pooling = 9}, nothing), HasSubstr("pooling_type"));
  EXPECT_THAT(refusal({}, [](gguf::Writer& w) { w.add("bert.hidden_activation", "relu"); }),
              HasSubstr("hidden_activation"));
  EXPECT_THAT(refusal({}, [](gguf::Writer& w) { w.add("bert.attention.head_count_kv", std::uint32_t{2}); }),
              HasSubstr("head_count_kv"));
  const float odd[32] = {};
  EXPECT_THAT(refusal({},
                      [&](gguf::Writer& w) {
                        w.add_tensor("blk.0.ffn_gate.weight", Type::f32, {32, 1}, std::as_bytes(std::span(odd)));
                      }),
              HasSubstr("no place"));
}

// A decoder's vectors are what its logits are made from.
TEST(Encoder, ADecoderReadsToo) {
  const TinySpec spec{.architecture = "qwen3", .head_dim = 16, .halves = true, .head_norms = true};
  TinyModel tiny(spec);
  ThreadPool pool(1);
  std::shared_ptr<Model> model = std::move(Loaded::load_tiny(tiny.writer(), pool).value().model);
  const std::vector<Text> texts{random_text(9, 1), random_text(33, 2), random_text(1, 3)};
  auto by_tokens =
      DecoderEncoder::create(model, {.pooling = Pooling::rank, .score_tokens = {7, 3}, .max_tokens = 64}, pool);
  ASSERT_TRUE(by_tokens.has_value());
  const auto scores = encode(**by_tokens, texts);
  auto last = DecoderEncoder::create(model, {.pooling = Pooling::last, .max_tokens = 64}, pool);
  auto mean = DecoderEncoder::create(model, {.pooling = Pooling::mean, .max_tokens = 64}, pool);
  const auto vectors = encode(**last, texts), means = encode(**mean, texts);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::vector<double> logits = tiny.logits(texts[i]).back();
    EXPECT_LT(distance({logits[7], logits[3]}, scores[i]), 0.05);
    ASSERT_EQ(vectors[i].size(), 32u);
    EXPECT_EQ(encode(**last, {texts[i]})[0], vectors[i]);
  }
  EXPECT_EQ(means[2], vectors[2]);  // of one token
  EXPECT_NE(means[0], vectors[0]);
  EXPECT_EQ(DecoderEncoder::create(model, {.pooling = Pooling::rank}, pool).error().code, Code::invalid);
}

TEST(Encoder, ADecoderMayHaveAClassifier) {
  TinyModel tiny({.architecture = "qwen3", .halves = true, .head_norms = true});
  std::vector<float> head(64, 0.0f);
  head[0] = 1, head[32 + 5] = 2;  // the first element, and twice the sixth
  tiny.writer().add("qwen3.pooling_type", std::uint32_t{4});
  tiny.writer().add("qwen3.classifier.output_labels",
                    std::span<const std::string>(std::vector<std::string>{"yes", "no"}));
  tiny.writer().add_tensor("cls.output.weight", Type::f32, {32, 2}, std::as_bytes(std::span(head)));
  ThreadPool pool(1);
  LoadedModel loaded = Loaded::load_tiny(tiny.writer(), pool).value();
  EXPECT_EQ(loaded.config->pooling, Pooling::rank);
  EXPECT_EQ(loaded.config->labels, (std::vector<std::string>{"yes", "no"}));
  std::shared_ptr<Model> model = std::move(loaded.model);
  auto last = DecoderEncoder::create(model, {.pooling = Pooling::last, .max_tokens = 64}, pool);
  auto rank = DecoderEncoder::create(model, {.pooling = Pooling::rank, .max_tokens = 64}, pool);
  const auto vector = encode(**last, {random_text(20, 1)})[0], scores = encode(**rank, {random_text(20, 1)})[0];
  EXPECT_NEAR(scores.at(0), vector[0], 1e-6);
  EXPECT_NEAR(scores.at(1), 2 * vector[5], 1e-6);
}

}  // namespace
}  // namespace ashlar::models
