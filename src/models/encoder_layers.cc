#include "models/encoder_layers.h"

#include <algorithm>
#include <numeric>

#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

std::size_t size(int n) { return static_cast<std::size_t>(n); }
int q_rows(const Shape& s) { return s.heads * s.head_dim; }

void list_norm(int index, std::string_view part, int width, LayerNorm& norm, TensorList& list) {
  list.vector({{tensor_name(index, part) + ".weight", width}}, norm.weight);
  list.vector({{tensor_name(index, part) + ".bias", width}}, norm.bias);
}

const std::byte* row_of(const Embedding& embedding, int row) {
  return embedding.rows.data() + embedding.row_bytes * size(row);
}

}  // namespace

void list_embeddings(const Config& config, EncoderWeights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list.embedding("token_embd.weight", s.vocabulary, s.width, weights.tokens);
  list.optional_embedding("token_types.weight", config.encoder->token_types, s.width, weights.types);
  list.vector({{"token_embd_norm.weight", s.width}}, weights.embedding_norm.weight);
  list.vector({{"token_embd_norm.bias", s.width}}, weights.embedding_norm.bias);
}

void list_encoder_attention(const Shape& s, const TensorSource& source, int index, EncoderLayer& layer,
                            TensorList& list) {
  const auto name = [&](std::string_view part) { return tensor_name(index, part); };
  if (source.find(name("attn_qkv.weight")) != nullptr) {
    list.matrix({{name("attn_qkv.weight"), 3 * q_rows(s)}}, s.width, layer.qkv);
    list.optional_vector({{name("attn_qkv.bias"), 3 * q_rows(s)}}, layer.qkv_bias);
  } else {
    std::vector<TensorList::Rows> matrices, biases;
    for (const std::string_view part : {"attn_q", "attn_k", "attn_v"}) {
      matrices.push_back({name(part) + ".weight", q_rows(s)});
      biases.push_back({name(part) + ".bias", q_rows(s)});
    }
    list.matrix(std::move(matrices), s.width, layer.qkv);
    list.optional_vector(std::move(biases), layer.qkv_bias);
  }
  list.matrix({{name("attn_output.weight"), s.width}}, q_rows(s), layer.attention_output);
  list.optional_vector({{name("attn_output.bias"), s.width}}, layer.attention_output_bias);
  list_norm(index, "attn_output_norm", s.width, layer.attention_norm, list);
}

void list_encoder_feed_forward(const Shape& s, bool gated, int index, EncoderLayer& layer, TensorList& list) {
  const auto name = [&](std::string_view part) { return tensor_name(index, part); };
  std::vector<TensorList::Rows> matrices, biases;
  if (gated) {
    matrices.push_back({name("ffn_gate.weight"), s.hidden});
    biases.push_back({name("ffn_gate.bias"), s.hidden});
  }
  matrices.push_back({name("ffn_up.weight"), s.hidden});
  biases.push_back({name("ffn_up.bias"), s.hidden});
  list.matrix(std::move(matrices), s.width, layer.up);
  list.optional_vector(std::move(biases), layer.up_bias);
  list.matrix({{name("ffn_down.weight"), s.width}}, s.hidden, layer.down);
  list.optional_vector({{name("ffn_down.bias"), s.width}}, layer.down_bias);
  list_norm(index, "layer_output_norm", s.width, layer.output_norm, list);
}

EncoderPass::EncoderPass(const Config& config, int max_tokens, int max_texts, ThreadPool& pool)
    : config_(config),
      max_tokens_(max_tokens),
      max_texts_(max_texts),
      pool_(pool),
      rope_(make_rope(config.rope, {})),
      ones_(size(config.shape.hidden), 1.0f) {
  positions_.reserve(size(max_tokens));
  texts_.reserve(size(max_texts));
}

Result<std::unique_ptr<EncoderPass>> EncoderPass::create(const Config& config, int max_tokens, int max_texts,
                                                         ThreadPool& pool) {
  std::unique_ptr<EncoderPass> pass(new EncoderPass(config, max_tokens, max_texts, pool));
  Shape one_layer = config.shape;
  one_layer.layers = 1;
  const int width = one_layer.width, hidden = one_layer.hidden;
  pass->x_ = TRY(FloatRows::allocate(max_tokens, width));
  pass->delta_ = TRY(FloatRows::allocate(max_tokens, width));
  pass->h_ = TRY(FloatRows::allocate(max_tokens, std::max({width, q_rows(one_layer), hidden})));
  pass->y_ = TRY(FloatRows::allocate(max_tokens, std::max(3 * q_rows(one_layer), 2 * hidden)));
  // Each text's last block may hold but one position.
  const int blocks = max_tokens / kBlockTokens + max_texts;
  const KvType type = TRY(kv_type_of("auto"));
  pass->kv_ = TRY(BlockStore::create(one_layer, blocks, type));
  pass->blocks_.resize(size(blocks));
  std::iota(pass->blocks_.begin(), pass->blocks_.end(), 0);
  return pass;
}

void EncoderPass::begin(const EncodeStep& step) {
  rows_ = static_cast<int>(step.tokens.size());
  CHECK(rows_ > 0 && rows_ <= max_tokens_ && step.lengths.size() <= size(max_texts_), "a pass holds these texts");
  CHECK(step.types.empty() || step.types.size() == step.tokens.size(), "each token has a type, or none has");
  tokens_ = step.tokens;
  types_ = step.types;
  delta_pending_ = false;
  positions_.clear();
  texts_.clear();
  std::size_t block = 0;
  for (const int length : step.lengths) {
    CHECK(length > 0 && length <= config_.shape.context, "a text is within the context");
    const std::size_t blocks = size((length + kBlockTokens - 1) / kBlockTokens);
    texts_.push_back({.first_row = static_cast<int>(positions_.size()),
                      .rows = length,
                      .blocks = std::span(blocks_).subspan(block, blocks)});
    for (int position = 0; position < length; ++position) positions_.push_back(position);
    block += blocks;
  }
  CHECK(static_cast<int>(positions_.size()) == rows_, "each token belongs to a text");
  rope_.set_positions(positions_);
}

void EncoderPass::embed(const EncoderWeights& weights) {
  const int width = config_.shape.width;
  pool_.for_each(rows_, [&](int row, int) {
    const std::int32_t token = tokens_[size(row)];
    CHECK(token >= 0 && token < config_.shape.vocabulary, "tokens are in the vocabulary");
    const auto add = [&](const Embedding& embedding, int index) {
      if (embedding.rows.empty()) return;
      kernels::dequantize_row(embedding.type, row_of(embedding, index), h_.row(row), width);
      for (int i = 0; i < width; ++i) x_.row(row)[i] += h_.row(row)[i];
    };
    kernels::dequantize_row(weights.tokens.type, row_of(weights.tokens, token), x_.row(row), width);
    const int type = types_.empty() ? 0 : types_[size(row)];
    add(weights.types, std::min(type, config_.encoder->token_types - 1));
    add(weights.positions, positions_[size(row)]);
  });
}

void EncoderPass::norm(const LayerNorm& norm) {
  const int width = config_.shape.width;
  if (delta_pending_) kernels::add(x_.data(), x_.ld, delta_.data(), delta_.ld, rows_, width, pool_);
  delta_pending_ = false;
  kernels::layer_norm(x_.data(), x_.ld, norm.weight.data(), norm.bias.data(), config_.rms_epsilon, rows_, width,
                      x_.data(), x_.ld, pool_);
}

void EncoderPass::multiply(const kernels::PackedMatrix& matrix, std::span<const float> bias, const FloatRows& from,
                           FloatRows& to) {
  activations_.assign(from.data(), from.ld, rows_, matrix.columns(), matrix.forms(), pool_);
  kernels::matmul(matrix, activations_, to.data(), to.ld, pool_);
  if (!bias.empty()) kernels::add_bias(to.data(), to.ld, bias.data(), rows_, matrix.rows(), pool_);
}

void EncoderPass::qkv(const EncoderLayer& layer) { multiply(layer.qkv, layer.qkv_bias, x_, y_); }

void EncoderPass::rotate() {
  const Shape& s = config_.shape;
  rope_.rotate(y_.data(), y_.ld, 2 * s.heads, s.head_dim, pool_);  // k stands behind q
}

void EncoderPass::attend() {
  const Shape& s = config_.shape;
  const kernels::KvView kv = kv_->layer(0);
  const float *k = y_.data() + q_rows(s), *v = k + q_rows(s);
  kernels::store_kv(kv, texts_, k, y_.ld, v, y_.ld, pool_);
  kernels::attention(kv, {.heads = s.heads, .scale = config_.attention_scale, .whole = true}, texts_, y_.data(), y_.ld,
                     h_.data(), h_.ld, pool_);
}

void EncoderPass::up(const EncoderLayer& layer) {
  const int hidden = config_.shape.hidden;
  multiply(layer.up, layer.up_bias, x_, y_);
  if (config_.encoder->activation == EncoderConfig::Activation::gelu)
    return kernels::gelu(y_.data(), y_.ld, rows_, hidden, h_.data(), h_.ld, pool_);
  for (int row = 0; row < rows_; ++row) std::ranges::copy(ones_, y_.row(row) + hidden);
  kernels::gelu_mul(y_.data(), y_.data() + hidden, y_.ld, rows_, hidden, h_.data(), h_.ld, pool_);
}

void EncoderPass::gated_silu(const EncoderLayer& layer) {
  const int hidden = config_.shape.hidden;
  multiply(layer.up, layer.up_bias, x_, y_);
  kernels::silu_mul(y_.data(), y_.data() + hidden, y_.ld, rows_, hidden, h_.data(), h_.ld, pool_);
}

void EncoderPass::add(const kernels::PackedMatrix& matrix, std::span<const float> bias) {
  multiply(matrix, bias, h_, delta_);
  delta_pending_ = true;
}

}  // namespace ashlar::models
