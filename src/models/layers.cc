#include "models/layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

int q_rows(const Shape& s) { return s.heads * s.head_dim; }
int kv_rows(const Shape& s) { return s.kv_heads * s.head_dim; }
int qkv_rows(const Shape& s) { return q_rows(s) + 2 * kv_rows(s); }

std::size_t rows_of(int rows) { return static_cast<std::size_t>(rows); }

}  // namespace

std::string tensor_name(int layer, std::string_view part) { return fmt::format("blk.{}.{}", layer, part); }

void list_embedding(const Shape& s, Weights& weights, TensorList& list) {
  list.embedding("token_embd.weight", s.vocabulary, s.width, weights.embedding);
}

void list_attention(const Shape& s, int index, Layer& layer, TensorList& list) {
  list.vector({{tensor_name(index, "attn_norm.weight"), s.width}}, layer.attention_norm);
  list_attention_matrices(s, index, layer, list);
}

void list_attention_matrices(const Shape& s, int index, Layer& layer, TensorList& list) {
  const auto name = [&](std::string_view part) { return tensor_name(index, part); };
  list.matrix(
      {{name("attn_q.weight"), q_rows(s)}, {name("attn_k.weight"), kv_rows(s)}, {name("attn_v.weight"), kv_rows(s)}},
      s.width, layer.qkv);
  list.matrix({{name("attn_output.weight"), s.width}}, q_rows(s), layer.attention_output);
}

void list_qkv_bias(const Shape& s, int index, Layer& layer, TensorList& list, bool optional) {
  const auto name = [&](std::string_view part) { return tensor_name(index, part); };
  std::vector<TensorList::Rows> biases{
      {name("attn_q.bias"), q_rows(s)}, {name("attn_k.bias"), kv_rows(s)}, {name("attn_v.bias"), kv_rows(s)}};
  if (optional)
    list.optional_vector(std::move(biases), layer.qkv_bias);
  else
    list.vector(std::move(biases), layer.qkv_bias);
}

void list_head_norms(const Shape& s, int index, Layer& layer, TensorList& list) {
  list.vector({{tensor_name(index, "attn_q_norm.weight"), s.head_dim}}, layer.q_norm);
  list.vector({{tensor_name(index, "attn_k_norm.weight"), s.head_dim}}, layer.k_norm);
}

void list_whole_norms(const Shape& s, int index, Layer& layer, TensorList& list) {
  list.vector({{tensor_name(index, "attn_q_norm.weight"), q_rows(s)}}, layer.q_norm);
  list.vector({{tensor_name(index, "attn_k_norm.weight"), kv_rows(s)}}, layer.k_norm);
}

void list_feed_forward(const Shape& s, int index, Layer& layer, TensorList& list) {
  list.vector({{tensor_name(index, "ffn_norm.weight"), s.width}}, layer.feed_forward_norm);
  list_feed_forward_matrices(s, index, layer, list);
}

void list_feed_forward(const Config& config, int index, Layer& layer, TensorList& list) {
  if (!config.experts.in_layer(index)) return list_feed_forward(config.shape, index, layer, list);
  list.vector({{tensor_name(index, "ffn_norm.weight"), config.shape.width}}, layer.feed_forward_norm);
  list_experts(config, index, layer.experts, list);
}

void list_feed_forward_matrices(const Shape& s, int index, Layer& layer, TensorList& list) {
  const auto name = [&](std::string_view part) { return tensor_name(index, part); };
  list.matrix({{name("ffn_gate.weight"), s.hidden}, {name("ffn_up.weight"), s.hidden}}, s.width, layer.gate_up);
  list.matrix({{name("ffn_down.weight"), s.width}}, s.hidden, layer.down);
}

void list_latent_attention(const Config& config, int index, Layer& layer, TensorList& list) {
  const Shape& s = config.shape;
  const LatentConfig& c = config.latent;
  const auto name = [&](std::string_view part) { return tensor_name(index, part); };
  list.vector({{name("attn_norm.weight"), s.width}}, layer.attention_norm);
  const TensorList::Rows kv_down{name("attn_kv_a_mqa.weight"), c.rank + s.head_dim - c.own_dims};
  if (c.query_rank > 0) {
    list.matrix({{name("attn_q_a.weight"), c.query_rank}, kv_down}, s.width, layer.qkv);
    list.vector({{name("attn_q_a_norm.weight"), c.query_rank}}, layer.q_norm);
    list.matrix({{name("attn_q_b.weight"), q_rows(s)}}, c.query_rank, layer.q_up);
  } else {
    list.matrix({{name("attn_q.weight"), q_rows(s)}, kv_down}, s.width, layer.qkv);
  }
  list.vector({{name("attn_kv_a_norm.weight"), c.rank}}, layer.k_norm);
  if (c.split) {
    list.matrix(
        {{name("attn_k_b.weight"), s.heads * c.own_dims, s.heads}, {name("attn_v_b.weight"), s.heads * c.value_dim}},
        c.rank, layer.kv_up);
    list.ignore(name("attn_kv_b.weight"));  // some files have both
  } else {
    list.matrix({{name("attn_kv_b.weight"), s.heads * (c.own_dims + c.value_dim)}}, c.rank, layer.kv_up);
  }
  list.matrix({{name("attn_output.weight"), s.width}}, s.heads * c.value_dim, layer.attention_output);
}

void list_post_norms(const Shape& s, int index, Layer& layer, TensorList& list) {
  list.vector({{tensor_name(index, "post_attention_norm.weight"), s.width}}, layer.attention_post_norm);
  list.vector({{tensor_name(index, "post_ffw_norm.weight"), s.width}}, layer.feed_forward_post_norm);
}

void list_output(const Shape& s, Weights& weights, TensorList& list) {
  list.vector({{"output_norm.weight", s.width}}, weights.output_norm);
  list.matrix_or("output.weight", "token_embd.weight", s.vocabulary, s.width, weights.output);
}

Result<FloatRows> FloatRows::allocate(int rows, int columns) {
  // Whole cache lines and one more: rows a power of two apart would compete for
  // the same few places of the cache.
  constexpr std::size_t kLine = 64 / sizeof(float);
  FloatRows out;
  out.ld = (rows_of(columns) + kLine - 1) / kLine * kLine + kLine;
  out.memory = TRY(kernels::HugeMemory::allocate(rows_of(rows) * out.ld * sizeof(float)));
  return out;
}

Pass::Pass(const Config& config, std::span<const float> rope_factors, int max_rows, ThreadPool& pool)
    : config_(config), max_rows_(max_rows), pool_(pool), rope_(make_rope(config.rope, rope_factors)), lora_(pool) {
  if (config.window_rope) window_rope_ = make_rope(*config.window_rope, {});
  const std::size_t rows = rows_of(max_rows);
  positions_.reserve(rows);
  sequences_.reserve(rows);
  asked_sequences_.reserve(rows);
  asked_.reserve(rows);
  adapters_.reserve(rows);
}

Result<std::unique_ptr<Pass>> Pass::create(const Config& config, std::span<const float> rope_factors, int max_rows,
                                           ThreadPool& pool) {
  std::unique_ptr<Pass> pass(new Pass(config, rope_factors, max_rows, pool));
  const Shape& s = config.shape;
  pass->x_ = TRY(FloatRows::allocate(max_rows, s.width));
  pass->delta_ = TRY(FloatRows::allocate(max_rows, s.width));
  const ExpertsConfig& experts = config.experts;
  const int hidden = std::max(s.hidden, experts.shared_hidden);
  const LatentConfig& latent = config.latent;
  pass->h_ = TRY(FloatRows::allocate(max_rows, std::max({s.width, q_rows(s), hidden, latent.rank, latent.query_rank})));
  pass->y_ = TRY(FloatRows::allocate(max_rows, std::max({s.width, qkv_rows(s), 2 * hidden})));
  if (latent.rank > 0) {
    const int queries = latent.query_rank > 0 ? latent.query_rank : q_rows(s);
    pass->short_ = TRY(FloatRows::allocate(max_rows, queries + latent.rank + config.rope.dims));
    pass->long_ = TRY(FloatRows::allocate(max_rows, s.heads * (latent.own_dims + latent.value_dim)));
  }
  if (experts.count == 0) return pass;
  pass->experts_ = TRY(ExpertRunner::create(experts, s.width, max_rows));
  pass->routes_ = TRY(FloatRows::allocate(max_rows, experts.count + 1));
  return pass;
}

void Pass::begin(const Step& step, int first, int rows, BlockStore& kv) {
  CHECK(rows > 0 && rows <= max_rows_, "a pass holds this many rows");
  rows_ = rows;
  kv_ = &kv;
  delta_pending_ = false;
  layer_ = nullptr;
  pause_ = step.pause;
  tokens_ = step.tokens.subspan(rows_of(first), rows_of(rows));
  take_sequences(step, first);
  take_logit_rows(step, first);
  rope_.set_positions(positions_);
  if (window_rope_) window_rope_->set_positions(positions_);
}

// The parts of the step's sequences that lie in these rows.
void Pass::take_sequences(const Step& step, int first) {
  sequences_.clear();
  positions_.clear();
  adapters_.clear();
  const bool adapted = std::ranges::any_of(step.sequences, [](const auto& s) { return s.adapter != nullptr; });
  for (const Step::Sequence& sequence : step.sequences) {
    const int begin = std::max(sequence.first_row, first);
    const int end = std::min(sequence.first_row + sequence.rows, first + rows_);
    if (begin >= end) continue;
    const int position = sequence.first_position + begin - sequence.first_row;
    CHECK(begin - first == static_cast<int>(positions_.size()), "sequences fill the rows, in order");
    for (int row = begin; row < end; ++row) positions_.push_back(position + row - begin);
    sequences_.push_back(
        {.first_row = begin - first, .rows = end - begin, .first_position = position, .blocks = sequence.blocks});
    if (adapted) adapters_.resize(positions_.size(), static_cast<const LoraAdapter*>(sequence.adapter));
  }
  lora_.set(adapters_);
  CHECK(static_cast<int>(positions_.size()) == rows_, "each row belongs to a sequence");
}

void Pass::take_logit_rows(const Step& step, int first) {
  if (listener_ != nullptr) {  // it is told of all rows
    asked_.resize(rows_of(rows_));
    std::iota(asked_.begin(), asked_.end(), 0);
    return;
  }
  const auto begin = std::ranges::lower_bound(step.logit_rows, first);
  const auto end = std::lower_bound(begin, step.logit_rows.end(), first + rows_);
  asked_.clear();
  for (auto row = begin; row != end; ++row) asked_.push_back(*row - first);
  const auto part = [&](std::span<float> out, int columns) {
    const std::size_t before = static_cast<std::size_t>(begin - step.logit_rows.begin());
    return out.empty() ? out : out.subspan(before * rows_of(columns), asked_.size() * rows_of(columns));
  };
  logits_ = part(step.logits, config_.shape.vocabulary);
  hidden_ = part(step.hidden, config_.shape.width);
}

void Pass::embed(const Embedding& embedding) {
  const Timed timed(profile_, Operation::embed, config_.shape.layers);
  if (listener_ != nullptr && listener_->enter(x_.data(), x_.ld, rows_)) return;
  pool_.for_each(rows_, [&](int row, int) {
    const std::int32_t token = tokens_[rows_of(row)];
    CHECK(token >= 0 && token < config_.shape.vocabulary, "tokens are in the vocabulary");
    kernels::dequantize_row(embedding.type, embedding.rows.data() + embedding.row_bytes * rows_of(token), x_.row(row),
                            embedding.width);
  });
  if (config_.embedding_scale != 1)
    kernels::scale(x_.data(), x_.ld, config_.embedding_scale, rows_, embedding.width, pool_);
}

void Pass::norm(std::span<const float> weight) {
  const bool second = layer_ != nullptr && weight.data() == layer_->feed_forward_norm.data();
  const Timed timed(profile_, Operation::norm, second || layer_ == nullptr ? layer_index() : layer_->index + 1);
  const int width = config_.shape.width;
  if (delta_pending_)
    kernels::add_rms_norm(x_.data(), x_.ld, delta_.data(), delta_.ld, weight.data(), config_.rms_epsilon, rows_, width,
                          h_.data(), h_.ld, pool_);
  else
    kernels::rms_norm(x_.data(), x_.ld, weight.data(), config_.rms_epsilon, rows_, width, h_.data(), h_.ld, pool_);
  delta_pending_ = false;
}

void Pass::take(const Layer& layer) {
  const Timed timed(profile_, Operation::norm, layer.index);
  pool_.for_each(rows_, [&](int row, int) {
    const std::size_t width = rows_of(config_.shape.width);
    if (delta_pending_)
      std::transform(x_.row(row), x_.row(row) + width, delta_.row(row), x_.row(row), std::plus<float>());
    std::copy_n(x_.row(row), width, h_.row(row));
  });
  delta_pending_ = false;
}

void Pass::post_norm(std::span<const float> weight) {
  const Timed timed(profile_, Operation::norm, layer_index());
  kernels::rms_norm(delta_.data(), delta_.ld, weight.data(), config_.rms_epsilon, rows_, config_.shape.width,
                    delta_.data(), delta_.ld, pool_);
}

// h as activations for the matrix.
void Pass::convert(const kernels::PackedMatrix& matrix) {
  const FloatRows* x = &h_;
  if (!matrix.order().empty() || matrix.kept() != nullptr) {
    if (ordered_.ld < h_.ld) {
      auto fresh = FloatRows::allocate(max_rows_, static_cast<int>(h_.ld));
      CHECK(fresh.has_value(), "no memory for ordered activations");
      ordered_ = std::move(*fresh);
    }
    if (matrix.kept() != nullptr)  // of formats whose columns keep their order
      kernels::clear_kept_columns(h_.data(), h_.ld, *matrix.kept(), rows_, matrix.columns(), ordered_.data(),
                                  ordered_.ld, pool_);
    else
      kernels::take_columns(h_.data(), h_.ld, matrix.order(), rows_, ordered_.data(), ordered_.ld, pool_);
    x = &ordered_;
  }
  activations_.assign(x->data(), x->ld, rows_, matrix.columns(), matrix.forms(), pool_);
}

void Pass::multiply(Operation operation, const kernels::PackedMatrix& matrix, float* y, std::size_t ldy) {
  if (rows_ == 0) return;
  if (pause_ != nullptr) (*pause_)();
  if (listener_ != nullptr && !listener_->input(matrix, h_.data(), h_.ld, rows_)) return drop_rows();
  const int layer = operation == Operation::logits ? config_.shape.layers : layer_index();
  {
    const Timed timed(profile_, Operation::quantize, layer);
    convert(matrix);
  }
  const Timed timed(
      profile_, operation, layer,
      {.bytes = static_cast<double>(matrix.bytes()), .operations = 2.0 * matrix.rows() * matrix.columns() * rows_});
  if (lora_.prepare(matrix, h_.data(), h_.ld))
    kernels::matmul(matrix, activations_, y, ldy, pool_,
                    [&](int first, int outputs) { lora_.add(first, outputs, y, ldy); });
  else
    kernels::matmul(matrix, activations_, y, ldy, pool_);
  if (matrix.kept() != nullptr)
    kernels::add_kept_columns(h_.data(), h_.ld, *matrix.kept(), rows_, matrix.rows(), y, ldy, pool_);
}

void Pass::drop_rows() {
  rows_ = 0;
  asked_.clear();
  sequences_.clear();
}

void Pass::qkv(const Layer& layer) {
  layer_ = &layer;
  multiply(Operation::qkv, layer.qkv, y_.data(), y_.ld);
  if (layer.qkv_bias.empty()) return;
  const Timed timed(profile_, Operation::qkv_bias, layer.index);
  kernels::add_bias(y_.data(), y_.ld, layer.qkv_bias.data(), rows_, layer.qkv.rows(), pool_);
}

void Pass::norm_heads(const Layer& layer) {
  const Timed timed(profile_, Operation::head_norm, layer.index);
  const Shape& s = config_.shape;
  kernels::rms_norm_heads(y_.data(), y_.ld, layer.q_norm.data(), config_.rms_epsilon, rows_, s.heads, s.head_dim,
                          pool_);
  kernels::rms_norm_heads(y_.data() + q_rows(s), y_.ld, layer.k_norm.data(), config_.rms_epsilon, rows_, s.kv_heads,
                          s.head_dim, pool_);
}

void Pass::norm_whole(const Layer& layer) {
  const Timed timed(profile_, Operation::head_norm, layer.index);
  const Shape& s = config_.shape;
  float *q = y_.data(), *k = q + q_rows(s);
  kernels::rms_norm(q, y_.ld, layer.q_norm.data(), config_.rms_epsilon, rows_, q_rows(s), q, y_.ld, pool_);
  kernels::rms_norm(k, y_.ld, layer.k_norm.data(), config_.rms_epsilon, rows_, kv_rows(s), k, y_.ld, pool_);
}

void Pass::rotate() {
  const Timed timed(profile_, Operation::rope, layer_index());
  const Shape& s = config_.shape;
  const kernels::Rope& rope = window_rope_ && s.window(layer_index()) > 0 ? *window_rope_ : rope_;
  rope.rotate(y_.data(), y_.ld, s.heads + s.kv_heads, s.head_dim, pool_);  // k stands behind q
}

void Pass::latent_qkv(const Layer& layer) {
  layer_ = &layer;
  const Shape& s = config_.shape;
  const LatentConfig& c = config_.latent;
  const int queries = layer.qkv.rows() - c.rank - config_.rope.dims;
  multiply(Operation::qkv, layer.qkv, short_.data(), short_.ld);
  const auto norm = [&](int first, const std::vector<float>& weight) {
    const Timed timed(profile_, Operation::head_norm, layer.index);
    kernels::rms_norm(short_.data() + first, short_.ld, weight.data(), config_.rms_epsilon, rows_,
                      static_cast<int>(weight.size()), h_.data(), h_.ld, pool_);
  };
  if (c.query_rank > 0) {
    norm(0, layer.q_norm);
    multiply(Operation::qkv, layer.q_up, y_.data(), y_.ld);
  } else {
    pool_.for_each(rows_, [&](int row, int) { std::copy_n(short_.row(row), q_rows(s), y_.row(row)); });
  }
  norm(queries, layer.k_norm);
  multiply(Operation::qkv, layer.kv_up, long_.data(), long_.ld);
  const Timed timed(profile_, Operation::rope, layer.index);
  rope_.rotate(y_.data() + c.own_dims, y_.ld, s.heads, s.head_dim, pool_);
  rope_.rotate(short_.data() + queries + c.rank, short_.ld, 1, config_.rope.dims, pool_);
  expand_latent(layer);
}

// Each head's key and value to where attend() reads them: keys end with the part that all share, values with zeros.
void Pass::expand_latent(const Layer& layer) {
  const Shape& s = config_.shape;
  const LatentConfig& c = config_.latent;
  const int shared = s.head_dim - c.own_dims, keys = s.heads * c.own_dims;
  const int key_step = c.split ? c.own_dims : c.own_dims + c.value_dim;
  const int value_step = c.split ? c.value_dim : key_step, first_value = c.split ? keys : c.own_dims;
  pool_.for_each(rows_, [&](int row, int) {
    const float *from = long_.row(row), *turned = short_.row(row) + layer.qkv.rows() - shared;
    float *k = y_.row(row) + q_rows(s), *v = k + kv_rows(s);
    for (int h = 0; h < s.heads; ++h, k += s.head_dim, v += s.head_dim) {
      std::copy_n(turned, shared, std::copy_n(from + h * key_step, c.own_dims, k));
      std::fill_n(std::copy_n(from + first_value + h * value_step, c.value_dim, v), s.head_dim - c.value_dim, 0.0f);
    }
  });
}

// Heads of values, which attend() took to be as long as keys, side by side.
void Pass::drop_padding() {
  const int heads = config_.shape.heads, head_dim = config_.shape.head_dim, value_dim = config_.latent.value_dim;
  pool_.for_each(rows_, [&](int row, int) {
    float* h = h_.row(row);
    for (int i = 1; i < heads; ++i) std::copy_n(h + i * head_dim, value_dim, h + i * value_dim);
  });
}

void Pass::attend(const Layer& layer) {
  const Shape& s = config_.shape;
  const kernels::KvView kv = kv_->layer(layer.index);
  const float *k = y_.data() + q_rows(s), *v = k + kv_rows(s);
  {
    const Timed timed(profile_, Operation::store_kv, layer.index);
    kernels::store_kv(kv, sequences_, k, y_.ld, v, y_.ld, pool_);
  }
  if (layer.index + 1 == s.layers) keep_asked_rows();
  const kernels::AttentionShape shape{.heads = s.heads,
                                      .window = s.window(layer.index),
                                      .scale = config_.attention_scale,
                                      .cap = config_.attention_cap,

                                      .sinks = layer.sinks.empty() ? nullptr : layer.sinks.data()};
  const Timed timed(profile_, Operation::attention, layer.index, profile_ == nullptr ? Cost{} : attention_cost());
  kernels::attention(kv, shape, sequences_, y_.data(), y_.ld, h_.data(), h_.ld, pool_);
  if (config_.latent.rank > 0) drop_padding();
}

// Of one layer.
Cost Pass::attention_cost() const {
  const Shape& s = config_.shape;
  const double position_bytes =
      static_cast<double>(kv_->bytes().count) / (static_cast<double>(kv_->blocks()) * kBlockTokens * s.layers);
  Cost cost;
  for (const kernels::KvSequence& sequence : sequences_) {
    const Seen seen = positions_seen(s.window(layer_index()), sequence.first_position, sequence.rows);
    cost.bytes += position_bytes * static_cast<double>(seen.together);
    cost.operations += 4.0 * s.heads * s.head_dim * static_cast<double>(seen.sum);
  }
  return cost;
}

// Moves the asked rows of x and q to the front and forgets the others.
void Pass::keep_asked_rows() {
  const std::size_t q_bytes = rows_of(q_rows(config_.shape)) * sizeof(float);
  asked_sequences_.clear();
  auto sequence = sequences_.begin();  // rows and sequences both rise
  int last_row = -2;
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    const int row = asked_[i];
    const bool next_sequence = row >= sequence->first_row + sequence->rows;
    while (row >= sequence->first_row + sequence->rows) ++sequence;
    if (row == last_row + 1 && !next_sequence)
      ++asked_sequences_.back().rows;
    else
      asked_sequences_.push_back({.first_row = static_cast<int>(i),
                                  .rows = 1,
                                  .first_position = positions_[rows_of(row)],
                                  .blocks = sequence->blocks});
    last_row = row;
    if (rows_of(row) == i) continue;
    if (!adapters_.empty()) adapters_[i] = adapters_[rows_of(row)];
    std::memcpy(y_.row(static_cast<int>(i)), y_.row(row), q_bytes);
    std::memcpy(x_.row(static_cast<int>(i)), x_.row(row), x_.ld * sizeof(float));
  }
  sequences_.swap(asked_sequences_);
  rows_ = static_cast<int>(asked_.size());
  if (adapters_.empty()) return;
  adapters_.resize(asked_.size());
  lora_.set(adapters_);
}

void Pass::gate(const kernels::PackedMatrix& gate_up, decltype(&kernels::silu_mul) activation) {
  const int hidden = config_.shape.hidden;
  multiply(Operation::gate_up, gate_up, y_.data(), y_.ld);
  const Timed timed(profile_, Operation::activation, layer_index());
  activation(y_.data(), y_.data() + hidden, y_.ld, rows_, hidden, h_.data(), h_.ld, pool_);
}

void Pass::project(const kernels::PackedMatrix& matrix, std::span<const float> bias) {
  const bool down = layer_ != nullptr && &matrix == &layer_->down;
  multiply(down ? Operation::down : Operation::attention_output, matrix, delta_.data(), delta_.ld);
  if (!bias.empty()) kernels::add_bias(delta_.data(), delta_.ld, bias.data(), rows_, config_.shape.width, pool_);
  end_branch();
}

// What x receives is in delta.
void Pass::end_branch() {
  if (config_.residual_scale != 1)
    kernels::scale(delta_.data(), delta_.ld, config_.residual_scale, rows_, config_.shape.width, pool_);
  delta_pending_ = true;
}

void Pass::feed_forward(const Layer& layer) {
  if (config_.experts.in_layer(layer.index)) return run_experts(layer);
  gated_silu(layer.gate_up);
  project(layer.down);
}

void Pass::run_experts(const Layer& layer) {
  if (rows_ > 0) {
    multiply(Operation::route, layer.experts.router, routes_.data(), routes_.ld);
    experts_->run(layer.experts, layer.index, h_, routes_, rows_, delta_, activations_, pool_, profile_, listener_);
    if (config_.experts.shared_hidden > 0) add_shared(layer.experts);
  }
  end_branch();
}

void Pass::add_shared(const Experts& experts) {
  const int hidden = config_.experts.shared_hidden, width = config_.shape.width;
  multiply(Operation::gate_up, experts.shared_gate_up, y_.data(), y_.ld);
  {
    const Timed timed(profile_, Operation::activation, layer_index());
    kernels::silu_mul(y_.data(), y_.data() + hidden, y_.ld, rows_, hidden, h_.data(), h_.ld, pool_);
  }
  multiply(Operation::down, experts.shared_down, y_.data(), y_.ld);
  const Timed timed(profile_, Operation::add_up, layer_index());
  if (config_.experts.shared_gate)
    pool_.for_each(rows_, [&](int row, int) {
      const float factor = 1 / (1 + std::exp(-routes_.row(row)[config_.experts.count]));
      for (float& value : std::span(y_.row(row), rows_of(width))) value *= factor;
    });
  kernels::add(delta_.data(), delta_.ld, y_.data(), y_.ld, rows_, width, pool_);
}

void Pass::logits(const kernels::PackedMatrix& matrix) {
  if (listener_ != nullptr) return listener_->leave(x_.data(), x_.ld, rows_);
  const std::size_t width = rows_of(config_.shape.width);
  for (int row = 0; row < rows_ && !hidden_.empty(); ++row)
    std::memcpy(hidden_.data() + rows_of(row) * width, h_.row(row), width * sizeof(float));
  if (logits_.empty()) return;
  const int vocabulary = config_.shape.vocabulary;
  multiply(Operation::logits, matrix, logits_.data(), rows_of(vocabulary));
  if (config_.logit_scale != 1)
    kernels::scale(logits_.data(), rows_of(vocabulary), config_.logit_scale, rows_, vocabulary, pool_);
  if (config_.logit_cap > 0)
    kernels::cap(logits_.data(), rows_of(vocabulary), config_.logit_cap, rows_, vocabulary, pool_);
}

}  // namespace ashlar::models
