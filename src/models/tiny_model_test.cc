#include "models/tiny_model_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <random>

#include "base/result.h"
#include "base/threads.h"
#include "models/random_weights.h"

namespace ashlar::models {
namespace {

using kernels::Type;

constexpr double kEpsilon = 1e-5;

double half(const std::byte* at) {
  std::uint16_t h;
  std::memcpy(&h, at, 2);
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

int u8(std::byte b) { return static_cast<int>(b); }
int s8(std::byte b) { return static_cast<std::int8_t>(b); }

void read_q4_k(const std::byte* block, std::vector<double>& out) {
  const double d = half(block), dmin = half(block + 2);
  const std::byte *s = block + 4, *codes = block + 16;
  for (int j = 0; j < 8; ++j) {
    const int scale = j < 4 ? u8(s[j]) & 63 : (u8(s[j + 4]) & 15) | (u8(s[j - 4]) >> 6) << 4;
    const int min = j < 4 ? u8(s[j + 4]) & 63 : (u8(s[j + 4]) >> 4) | (u8(s[j]) >> 6) << 4;
    for (int l = 0; l < 32; ++l) {
      const int byte = u8(codes[j / 2 * 32 + l]);
      out.push_back(d * scale * (j % 2 == 0 ? byte & 15 : byte >> 4) - dmin * min);
    }
  }
}

void read_q6_k(const std::byte* block, std::vector<double>& out) {
  const std::byte *low = block, *high = block + 128, *scales = block + 192;
  const double d = half(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, within = i % 128, quarter = within / 32, l = within % 32;
    const int low_byte = u8(low[part * 64 + (quarter % 2) * 32 + l]);
    const int low_bits = quarter < 2 ? low_byte & 15 : low_byte >> 4;
    const int high_bits = (u8(high[part * 32 + l]) >> (2 * quarter)) & 3;
    out.push_back(d * s8(scales[i / 16]) * ((low_bits | high_bits << 4) - 32));
  }
}

}  // namespace

std::vector<double> plain_values(Type type, std::span<const std::byte> bytes) {
  std::vector<double> out;
  const auto size = static_cast<std::size_t>(kernels::type_info(type).bytes);
  for (std::size_t at = 0; at + size <= bytes.size(); at += size) {
    const std::byte* block = bytes.data() + at;
    switch (type) {
      case Type::f32: {
        float value;
        std::memcpy(&value, block, 4);
        out.push_back(static_cast<double>(value));
        break;
      }
      case Type::f16:
        out.push_back(half(block));
        break;
      case Type::bf16: {
        std::uint32_t bits = 0;
        std::memcpy(reinterpret_cast<std::byte*>(&bits) + 2, block, 2);
        out.push_back(static_cast<double>(std::bit_cast<float>(bits)));
        break;
      }
      case Type::q8_0:
        for (int i = 0; i < 32; ++i) out.push_back(half(block) * s8(block[2 + i]));
        break;
      case Type::mxfp4: {
        constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
        for (int i = 0; i < 32; ++i) {
          const int code = i < 16 ? u8(block[1 + i]) & 15 : u8(block[1 + i - 16]) >> 4;
          out.push_back(std::ldexp((code & 8) != 0 ? -kValues[code & 7] : kValues[code & 7], u8(block[0]) - 127));
        }
        break;
      }
      case Type::q4_0:
        for (int i = 0; i < 32; ++i)
          out.push_back(half(block) * ((i < 16 ? u8(block[2 + i]) & 15 : u8(block[2 + i - 16]) >> 4) - 8));
        break;
      case Type::q4_k:
        read_q4_k(block, out);
        break;
      case Type::q6_k:
        read_q6_k(block, out);
        break;
      default:
        ADD_FAILURE() << "no plain reading of this type";
    }
  }
  return out;
}

TinyModel::TinyModel(const TinySpec& spec) : spec_(spec) {
  if (spec_.rope_dims == 0) spec_.rope_dims = spec_.head_dim;
  add_keys();
  add_tensors();
}

void TinyModel::add_keys() {
  const auto size = [&](std::string_view key, int value) {
    writer_.add(spec_.architecture + "." + std::string(key), static_cast<std::uint32_t>(value));
  };
  writer_.add("general.architecture", spec_.architecture);
  size("block_count", spec_.layers);
  size("embedding_length", spec_.width);
  size("feed_forward_length", spec_.hidden);
  size("attention.head_count", spec_.heads);
  size("attention.head_count_kv", spec_.kv_heads);
  size("context_length", spec_.context);
  if (spec_.latent_rank > 0) {
    size("attention.kv_lora_rank", spec_.latent_rank);
    if (spec_.query_rank > 0) size("attention.q_lora_rank", spec_.query_rank);
    size("attention.key_length", spec_.split ? spec_.latent_rank + spec_.rope_dims : spec_.head_dim);
    size("attention.value_length", spec_.split ? spec_.latent_rank : spec_.value_dim);
    if (spec_.split) size("attention.key_length_mla", spec_.head_dim);
    if (spec_.split) size("attention.value_length_mla", spec_.value_dim);
    if (spec_.log_multiplier >= 0)
      writer_.add(spec_.architecture + ".rope.scaling.yarn_log_multiplier", static_cast<float>(spec_.log_multiplier));
  } else if (spec_.head_dim * spec_.heads != spec_.width) {
    size("attention.key_length", spec_.head_dim);
    size("attention.value_length", spec_.head_dim);
  }
  if (spec_.window > 0) size("attention.sliding_window", spec_.window);
  size("rope.dimension_count", spec_.rope_dims);
  const std::string prefix = spec_.architecture + ".";
  writer_.add(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(kEpsilon));
  writer_.add(prefix + "rope.freq_base", static_cast<float>(spec_.rope_base));
  if (!spec_.rope_scaling.empty()) {
    writer_.add(prefix + "rope.scaling.type", spec_.rope_scaling);
    writer_.add(prefix + "rope.scaling.factor", static_cast<float>(spec_.rope_factor));
    size("rope.scaling.original_context_length", spec_.original_context);
  }
  if (spec_.architecture == "gemma3" && spec_.full_every != 6) {
    size("attention.sliding_window_pattern", spec_.full_every);
    writer_.add(prefix + "rope.freq_base_swa", static_cast<float>(spec_.window_rope_base));
  }
  if (spec_.architecture == "gemma2") {
    if (spec_.full_every != 2) size("attention.sliding_window_pattern", spec_.full_every);
    writer_.add(prefix + "attn_logit_softcapping", static_cast<float>(spec_.attention_cap));
    writer_.add(prefix + "final_logit_softcapping", static_cast<float>(spec_.logit_cap));
  }
  if (spec_.long_rope) {
    size("rope.scaling.original_context_length", spec_.original_context);
    writer_.add(prefix + "rope.scaling.attn_factor", static_cast<float>(spec_.rope_length));
  }
  if (spec_.architecture == "granite") {
    writer_.add(prefix + "embedding_scale", static_cast<float>(spec_.embedding_scale));
    writer_.add(prefix + "residual_scale", static_cast<float>(spec_.residual_scale));
    writer_.add(prefix + "logit_scale", static_cast<float>(spec_.logit_divisor));
    writer_.add(prefix + "attention.scale", static_cast<float>(spec_.attention_scale));
  }
  if (spec_.experts > 0) add_expert_keys();
}

void TinyModel::add_expert_keys() {
  const std::string prefix = spec_.architecture + ".";
  const auto size = [&](std::string_view key, int value) {
    const auto wrong = spec_.wrong_keys.find(std::string(key));
    writer_.add(prefix + std::string(key),
                wrong == spec_.wrong_keys.end() ? static_cast<std::uint32_t>(value) : wrong->second);
  };
  size("expert_count", spec_.experts);
  size("expert_used_count", spec_.experts_used);
  if (spec_.architecture != "llama") size("expert_feed_forward_length", spec_.expert_hidden);
  if (spec_.architecture == "deepseek2") {
    size("leading_dense_block_count", spec_.dense_layers);
    size("expert_shared_count", spec_.shared_hidden / spec_.expert_hidden);
  }
  if (spec_.architecture == "qwen2moe") size("expert_shared_feed_forward_length", spec_.shared_hidden);
  if (!spec_.expert_keys) return;
  size("expert_gating_func", spec_.scores == "softmax" ? 1 : spec_.scores == "sigmoid" ? 2 : 3);
  size("expert_group_count", spec_.expert_groups);
  size("expert_group_used_count", spec_.expert_groups_used);
  writer_.add(prefix + "expert_weights_norm", spec_.normalize);
  writer_.add(prefix + "expert_weights_scale", static_cast<float>(spec_.expert_scale));
}

// `count`: so many matrices, one behind the other; 0: a matrix or, of one row, a vector.
void TinyModel::add(const std::string& name, int rows, int columns, Type type, double deviation, double mean,
                    int count) {
  Matrix& m = tensors_[name];
  const int each = rows;
  rows *= std::max(1, count);
  m.rows = rows;
  m.columns = columns;
  m.bytes.resize(kernels::row_bytes(type, columns) * static_cast<std::size_t>(rows));
  ThreadPool pool(1);
  fill_random(type, deviation, spec_.seed * 1000 + tensors_.size(), m.bytes, pool);
  if (mean != 0) {
    for (std::size_t at = 0; at < m.bytes.size(); at += 4) {
      float value;
      std::memcpy(&value, m.bytes.data() + at, 4);
      value += static_cast<float>(mean);
      std::memcpy(m.bytes.data() + at, &value, 4);
    }
  }
  m.values = plain_values(type, m.bytes);
  std::vector<std::int64_t> dims{columns};
  if (rows > 1) dims.push_back(each);
  if (count > 0) dims.push_back(count);
  writer_.add_tensor(name, type, dims, m.bytes);
}

void TinyModel::add_tensors() {
  const TinySpec& s = spec_;
  const Type other = s.mixed ? s.other_type : s.type;
  const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  add("token_embd.weight", s.vocabulary, s.width, s.type, 1);
  const double spread = 1 / std::sqrt(s.width);
  for (int i = 0; i < s.layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    if (s.pre_norms) add(blk + "attn_norm.weight", 1, s.width, Type::f32, 0.2, 1);
    if (s.latent_rank > 0) {
      add_latent(blk, spread);
    } else if (s.fused) {
      add(blk + "attn_qkv.weight", q + 2 * kv, s.width, s.type, spread);
    } else {
      add(blk + "attn_q.weight", q, s.width, s.type, spread);
      add(blk + "attn_k.weight", kv, s.width, s.type, spread);
      add(blk + "attn_v.weight", kv, s.width, other, spread);
    }
    if (s.qkv_bias) {
      add(blk + "attn_q.bias", 1, q, Type::f32, 0.5);
      add(blk + "attn_k.bias", 1, kv, Type::f32, 0.5);
      add(blk + "attn_v.bias", 1, kv, Type::f32, 0.5);
    }
    if (s.head_norms) {
      add(blk + "attn_q_norm.weight", 1, s.head_dim, Type::f32, 0.2, 1);
      add(blk + "attn_k_norm.weight", 1, s.head_dim, Type::f32, 0.2, 1);
    }
    if (s.whole_norms) {
      add(blk + "attn_q_norm.weight", 1, q, Type::f32, 0.2, 1);
      add(blk + "attn_k_norm.weight", 1, kv, Type::f32, 0.2, 1);
    }
    if (s.post_norms) {
      add(blk + "post_attention_norm.weight", 1, s.width, Type::f32, 0.2, 1);
      add(blk + "post_ffw_norm.weight", 1, s.width, Type::f32, 0.2, 1);
    }
    add(blk + "attn_output.weight", s.width, s.latent_rank > 0 ? s.heads * s.value_dim : q, s.type, spread);
    if (s.output_bias) add(blk + "attn_output.bias", 1, s.width, Type::f32, 0.5);
    if (s.sinks) add(blk + "attn_sinks.weight", 1, s.heads, Type::f32, 2);
    if (s.pre_norms) add(blk + s.feed_forward_norm + ".weight", 1, s.width, Type::f32, 0.2, 1);
    if (s.experts > 0 && i >= s.dense_layers) {
      add_experts(blk, other, spread);
      continue;
    }
    const bool up = s.fused || s.fused_up;
    if (!up) add(blk + "ffn_gate.weight", s.hidden, s.width, s.type, spread);
    add(blk + "ffn_up.weight", up ? 2 * s.hidden : s.hidden, s.width, s.type, spread);
    add(blk + "ffn_down.weight", s.width, s.hidden, other, spread);
  }
  add("output_norm.weight", 1, s.width, Type::f32, 0.2, 1);
  if (!s.tied) add("output.weight", s.vocabulary, s.width, s.type, spread);
  if (s.rope_factors) add("rope_freqs.weight", 1, s.rope_dims / 2, Type::f32, 0.5, 3);
  if (s.long_rope) {
    add("rope_factors_long.weight", 1, s.rope_dims / 2, Type::f32, 0.5, 5);
    add("rope_factors_short.weight", 1, s.rope_dims / 2, Type::f32, 0.1, 1.5);
  }
}

void TinyModel::add_latent(const std::string& blk, double spread) {
  const TinySpec& s = spec_;
  const int own = s.head_dim - s.rope_dims;
  const double latent_spread = 1 / std::sqrt(s.latent_rank);
  if (s.query_rank > 0) {
    add(blk + "attn_q_a.weight", s.query_rank, s.width, s.type, spread);
    add(blk + "attn_q_a_norm.weight", 1, s.query_rank, Type::f32, 0.2, 1);
    add(blk + "attn_q_b.weight", s.heads * s.head_dim, s.query_rank, s.type, 1 / std::sqrt(s.query_rank));
  } else {
    add(blk + "attn_q.weight", s.heads * s.head_dim, s.width, s.type, spread);
  }
  add(blk + "attn_kv_a_mqa.weight", s.latent_rank + s.rope_dims, s.width, s.type, spread);
  add(blk + "attn_kv_a_norm.weight", 1, s.latent_rank, Type::f32, 0.2, 1);
  if (s.split) {
    add(blk + "attn_k_b.weight", s.latent_rank, own, s.type, latent_spread, 0, s.heads);
    add(blk + "attn_v_b.weight", s.value_dim, s.latent_rank, s.type, latent_spread, 0, s.heads);
  } else {
    add(blk + "attn_kv_b.weight", s.heads * (own + s.value_dim), s.latent_rank, s.type, latent_spread);
  }
}

void TinyModel::add_experts(const std::string& blk, Type other, double spread) {
  const TinySpec& s = spec_;
  add(blk + "ffn_gate_inp.weight", s.experts, s.width, Type::f32, 2 * spread);
  const bool own = s.expert_type != Type::f32;
  add(blk + "ffn_gate_exps.weight", s.expert_hidden, s.width, own ? s.expert_type : s.type, spread, 0, s.experts);
  add(blk + "ffn_up_exps.weight", s.expert_hidden, s.width, own ? s.expert_type : s.type, spread, 0, s.experts);
  add(blk + "ffn_down_exps.weight", s.width, s.expert_hidden, own ? s.expert_type : other, spread, 0, s.experts);
  if (s.choice_bias) add(blk + "exp_probs_b.bias", 1, s.experts, Type::f32, 0.3);
  if (s.expert_biases) {
    add(blk + "ffn_gate_inp.bias", 1, s.experts, Type::f32, 0.5);
    add(blk + "ffn_gate_exps.bias", s.experts, s.expert_hidden, Type::f32, 0.5);
    add(blk + "ffn_up_exps.bias", s.experts, s.expert_hidden, Type::f32, 0.5);
    add(blk + "ffn_down_exps.bias", s.experts, s.width, Type::f32, 0.5);
  }
  if (s.shared_hidden == 0) return;
  add(blk + "ffn_gate_shexp.weight", s.shared_hidden, s.width, s.type, spread);
  add(blk + "ffn_up_shexp.weight", s.shared_hidden, s.width, s.type, spread);
  add(blk + "ffn_down_shexp.weight", s.width, s.shared_hidden, other, spread);
  if (s.shared_gate) add(blk + "ffn_gate_inp_shexp.weight", 1, s.width, Type::f32, spread);
}

void TinyModel::add_low_rank(const std::string& name, std::span<const float> a, std::span<const float> b, int rank,
                             double scale) {
  Matrix& m = tensors_.at(name);
  const auto columns = static_cast<std::size_t>(m.columns), ranks = static_cast<std::size_t>(rank);
  for (std::size_t r = 0; r < static_cast<std::size_t>(m.rows); ++r)
    for (std::size_t c = 0; c < columns; ++c)
      for (std::size_t k = 0; k < ranks; ++k)
        m.values[r * columns + c] +=
            scale * static_cast<double>(b[r * ranks + k]) * static_cast<double>(a[k * columns + c]);
}

std::map<std::string, TinyModel::Values> TinyModel::values() const {
  std::map<std::string, Values> out;
  for (const auto& [name, m] : tensors_) out[name] = {m.rows, m.columns, m.values};
  return out;
}

void TinyModel::set_values(const std::string& name, std::vector<double> values) {
  Matrix& m = tensors_.at(name);
  CHECK(values.size() == m.values.size(), "as many values as before");
  m.values = std::move(values);
}

TinyModel::Vector TinyModel::multiply(const std::string& name, const Vector& x) const {
  return rows_of(name, x, 0, tensor(name).rows);
}

// x + a part of a tensor.
TinyModel::Vector TinyModel::plus(Vector x, const std::string& name, int first) const {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += tensor(name).values[static_cast<std::size_t>(first) + i];
  return x;
}

TinyModel::Vector TinyModel::gated(Vector gate, Vector up) const {
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i], cubic = std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g);
    if (spec_.clamped) {
      const double most = std::min(g, 7.0), linear = std::min(std::max(up[i], -7.0), 7.0);
      gate[i] = most / (1 + std::exp(-1.702 * most)) * (linear + 1);
    } else {
      gate[i] = (spec_.gelu ? g / 2 * (1 + std::tanh(cubic)) : g / (1 + std::exp(-g))) * up[i];
    }
  }
  return gate;
}

// The experts of h and their weights.
std::vector<std::pair<int, double>> TinyModel::choose(const std::string& blk, const Vector& h) const {
  const TinySpec& s = spec_;
  Vector logits = multiply(blk + "ffn_gate_inp.weight", h);
  if (s.expert_biases) logits = plus(logits, blk + "ffn_gate_inp.bias");
  Vector scores;
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  for (const double logit : logits)
    scores.push_back(s.scores == "softmax"   ? std::exp(logit) / sum
                     : s.scores == "sigmoid" ? 1 / (1 + std::exp(-logit))
                                             : std::exp(logit));
  const Vector wish = s.choice_bias ? plus(scores, blk + "exp_probs_b.bias") : scores;
  // The groups by their best expert, or their best two.
  const int each = s.experts / s.expert_groups;
  std::vector<std::pair<double, int>> groups;
  for (int g = 0; g < s.expert_groups; ++g) {
    Vector in_group(wish.begin() + g * each, wish.begin() + (g + 1) * each);
    std::ranges::sort(in_group, std::greater());
    groups.emplace_back(s.scores == "sigmoid" ? in_group[0] + in_group[1] : in_group[0], g);
  }
  std::ranges::sort(groups, std::greater());
  std::vector<std::pair<double, int>> order;
  for (int i = 0; i < s.expert_groups_used; ++i)
    for (int e = groups[static_cast<std::size_t>(i)].second * each, end = e + each; e < end; ++e)
      order.emplace_back(wish[static_cast<std::size_t>(e)], e);
  std::ranges::sort(order, std::greater());
  std::vector<std::pair<int, double>> chosen;
  double total = 0;
  for (int i = 0; i < s.experts_used; ++i) {
    const int expert = order[static_cast<std::size_t>(i)].second;
    chosen.emplace_back(expert, scores[static_cast<std::size_t>(expert)]);
    total += chosen.back().second;
  }
  for (auto& [expert, weight] : chosen) weight *= s.expert_scale / (s.normalize || s.scores == "chosen" ? total : 1);
  return chosen;
}

TinyModel::Vector TinyModel::mix(const std::string& blk, const Vector& h) const {
  const TinySpec& s = spec_;
  Vector out(h.size(), 0.0);
  for (const auto& [expert, weight] : choose(blk, h)) {
    const int first = expert * s.expert_hidden;
    Vector gate = rows_of(blk + "ffn_gate_exps.weight", h, first, s.expert_hidden);
    Vector up = rows_of(blk + "ffn_up_exps.weight", h, first, s.expert_hidden);
    if (s.expert_biases) {
      gate = plus(gate, blk + "ffn_gate_exps.bias", first);
      up = plus(up, blk + "ffn_up_exps.bias", first);
    }
    Vector down = rows_of(blk + "ffn_down_exps.weight", gated(gate, up), expert * s.width, s.width);
    if (s.expert_biases) down = plus(down, blk + "ffn_down_exps.bias", expert * s.width);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += weight * down[i];
  }
  if (s.shared_hidden == 0) return out;
  const Vector shared = multiply(blk + "ffn_down_shexp.weight", gated(multiply(blk + "ffn_gate_shexp.weight", h),
                                                                      multiply(blk + "ffn_up_shexp.weight", h)));
  double factor = 1;
  if (s.shared_gate) factor = 1 / (1 + std::exp(-multiply(blk + "ffn_gate_inp_shexp.weight", h)[0]));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] += factor * shared[i];
  return out;
}

TinyModel::Vector TinyModel::rows_of(const std::string& name, const Vector& x, int first, int count) const {
  const Matrix& m = tensor(name);
  Vector y(static_cast<std::size_t>(count), 0.0);
  for (std::size_t r = 0; r < y.size(); ++r)
    for (std::size_t c = 0; c < x.size(); ++c)
      y[r] += m.values[(static_cast<std::size_t>(first) + r) * x.size() + c] * x[c];
  return y;
}

// x[from, from + count) over its root mean square, times the weight; the rest unchanged.
TinyModel::Vector TinyModel::normalize(const std::string& name, const Vector& x, int from, int count) const {
  Vector y = x;
  double squares = 0;
  for (int i = 0; i < count; ++i)
    squares += x[static_cast<std::size_t>(from + i)] * x[static_cast<std::size_t>(from + i)];
  const double over = 1 / std::sqrt(squares / count + kEpsilon);
  for (int i = 0; i < count; ++i)
    y[static_cast<std::size_t>(from + i)] *= over * tensor(name).values[static_cast<std::size_t>(i)];
  return y;
}

int TinyModel::window(int layer) const {
  const bool full = spec_.full_every > 0 && layer % spec_.full_every == spec_.full_every - 1;
  return full ? 0 : spec_.window;
}

void TinyModel::rotate(Vector& x, int heads, int position, int layer, int stride, int offset) const {
  const bool other = window(layer) > 0 && spec_.window_rope_base > 0;
  const double base = other ? spec_.window_rope_base : spec_.rope_base;
  const std::string scaling = other ? "" : spec_.rope_scaling;
  const int n = spec_.rope_dims;
  for (int pair = 0; pair < n / 2; ++pair) {
    double theta = position * std::pow(base, -2.0 * pair / n), length = 1;
    if (spec_.rope_factors) theta /= tensor("rope_freqs.weight").values[static_cast<std::size_t>(pair)];
    if (spec_.long_rope) {
      const bool beyond = spec_.context > spec_.original_context;
      theta /= tensor(beyond ? "rope_factors_long.weight" : "rope_factors_short.weight")
                   .values[static_cast<std::size_t>(pair)];
      length = spec_.rope_length;
    }
    if (scaling == "linear") theta /= spec_.rope_factor;
    if (scaling == "yarn") {
      // The ramp runs between the pairs that turn 32 times and once in the original context.
      const auto pair_of = [&](double turns) {
        return n * std::log(spec_.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(spec_.rope_base));
      };
      const bool whole = spec_.whole_pairs;
      const double low = std::max(whole ? std::floor(pair_of(32)) : pair_of(32), 0.0);
      const double high = std::min(whole ? std::ceil(pair_of(1)) : pair_of(1), n - 1.0);
      const double ramp = 1 - std::min(1.0, std::max(0.0, (pair - low) / std::max(0.001, high - low)));
      theta = theta / spec_.rope_factor * (1 - ramp) + theta * ramp;
      length = spec_.latent_rank > 0 ? 1 : 1 + 0.1 * std::log(spec_.rope_factor);
    }
    for (int head = 0; head < heads; ++head) {
      const int begin = head * stride + offset;
      double& a = x[static_cast<std::size_t>(begin + (spec_.halves ? pair : 2 * pair))];
      double& b = x[static_cast<std::size_t>(begin + (spec_.halves ? pair + n / 2 : 2 * pair + 1))];
      const double first = a, second = b;
      a = length * (first * std::cos(theta) - second * std::sin(theta));
      b = length * (first * std::sin(theta) + second * std::cos(theta));
    }
  }
}

// Queries, keys and values of one position before they are kept, turned.
TinyModel::Heads TinyModel::latent_heads(const std::string& blk, const Vector& x, int position, int layer) const {
  const TinySpec& s = spec_;
  const auto own = static_cast<std::size_t>(s.head_dim - s.rope_dims), rank = static_cast<std::size_t>(s.latent_rank);
  const auto value_dim = static_cast<std::size_t>(s.value_dim);
  Heads out;
  if (s.query_rank > 0)
    out.q = multiply(blk + "attn_q_b.weight",
                     normalize(blk + "attn_q_a_norm.weight", multiply(blk + "attn_q_a.weight", x), 0, s.query_rank));
  else
    out.q = multiply(blk + "attn_q.weight", x);
  rotate(out.q, s.heads, position, layer, s.head_dim, static_cast<int>(own));
  const Vector down = multiply(blk + "attn_kv_a_mqa.weight", x);
  Vector turned(down.begin() + s.latent_rank, down.end());
  rotate(turned, 1, position, layer, s.rope_dims);
  const Vector c =
      normalize(blk + "attn_kv_a_norm.weight", {down.begin(), down.begin() + s.latent_rank}, 0, s.latent_rank);
  for (std::size_t h = 0; h < static_cast<std::size_t>(s.heads); ++h) {
    for (std::size_t i = 0; i < own + value_dim; ++i) {
      const bool key = i < own;
      const std::string name = !s.split ? "attn_kv_b.weight" : key ? "attn_k_b.weight" : "attn_v_b.weight";
      double sum = 0;
      for (std::size_t r = 0; r < rank; ++r) {
        const std::size_t at = !s.split ? (h * (own + value_dim) + i) * rank + r
                               : key    ? (h * rank + r) * own + i
                                        : (h * value_dim + i - own) * rank + r;
        sum += tensor(blk + name).values[at] * c[r];
      }
      (key ? out.k : out.v).push_back(sum);
    }
    out.k.insert(out.k.end(), turned.begin(), turned.end());
  }
  return out;
}

TinyModel::Heads TinyModel::plain_heads(const std::string& blk, const Vector& x, int position, int layer) const {
  const TinySpec& s = spec_;
  const int q_rows = s.heads * s.head_dim, kv_rows = s.kv_heads * s.head_dim;
  const std::string fused = blk + "attn_qkv.weight";
  Vector q = s.fused ? rows_of(fused, x, 0, q_rows) : multiply(blk + "attn_q.weight", x);
  Vector k = s.fused ? rows_of(fused, x, q_rows, kv_rows) : multiply(blk + "attn_k.weight", x);
  Vector v = s.fused ? rows_of(fused, x, q_rows + kv_rows, kv_rows) : multiply(blk + "attn_v.weight", x);
  if (s.qkv_bias) {
    q = plus(q, blk + "attn_q.bias");
    k = plus(k, blk + "attn_k.bias");
    v = plus(v, blk + "attn_v.bias");
  }
  if (s.head_norms) {
    for (int h = 0; h < s.heads; ++h) q = normalize(blk + "attn_q_norm.weight", q, h * s.head_dim, s.head_dim);
    for (int h = 0; h < s.kv_heads; ++h) k = normalize(blk + "attn_k_norm.weight", k, h * s.head_dim, s.head_dim);
  }
  if (s.whole_norms) {
    q = normalize(blk + "attn_q_norm.weight", q, 0, q_rows);
    k = normalize(blk + "attn_k_norm.weight", k, 0, kv_rows);
  }
  rotate(q, s.heads, position, layer, s.head_dim);
  rotate(k, s.kv_heads, position, layer, s.head_dim);
  return {q, k, v};
}

TinyModel::Vector TinyModel::attend(int layer, int position, Vector x, std::vector<Vector>& keys,
                                    std::vector<Vector>& values) const {
  const TinySpec& s = spec_;
  const std::string blk = "blk." + std::to_string(layer) + ".";
  const bool latent = s.latent_rank > 0;
  const auto [q, k, v] = latent ? latent_heads(blk, x, position, layer) : plain_heads(blk, x, position, layer);
  const int kv_heads = latent ? s.heads : s.kv_heads, value_dim = latent ? s.value_dim : s.head_dim;
  keys.push_back(k);
  values.push_back(v);
  Vector heads(static_cast<std::size_t>(s.heads * value_dim), 0.0);
  double scale = s.attention_scale > 0 ? s.attention_scale : 1 / std::sqrt(s.head_dim);
  if (s.log_multiplier >= 0) scale *= std::pow(1 + s.log_multiplier * std::log(s.rope_factor), 2);
  const int first = window(layer) > 0 ? std::max(0, position - window(layer) + 1) : 0;
  for (int h = 0; h < s.heads; ++h) {
    const auto q_at = static_cast<std::size_t>(h * s.head_dim);
    const int kv_head = h / (s.heads / kv_heads);
    const auto k_at = static_cast<std::size_t>(kv_head * s.head_dim);
    const auto v_at = static_cast<std::size_t>(kv_head * value_dim), out_at = static_cast<std::size_t>(h * value_dim);
    Vector weights;
    double sum = s.sinks ? std::exp(tensor(blk + "attn_sinks.weight").values[static_cast<std::size_t>(h)]) : 0;
    for (int p = first; p <= position; ++p) {
      double dot = 0;
      for (int i = 0; i < s.head_dim; ++i)
        dot += q[q_at + static_cast<std::size_t>(i)] *
               keys[static_cast<std::size_t>(p)][k_at + static_cast<std::size_t>(i)];
      const double score = dot * scale;
      weights.push_back(std::exp(s.attention_cap > 0 ? s.attention_cap * std::tanh(score / s.attention_cap) : score));
      sum += weights.back();
    }
    for (int p = first; p <= position; ++p)
      for (int i = 0; i < value_dim; ++i)
        heads[out_at + static_cast<std::size_t>(i)] +=
            weights[static_cast<std::size_t>(p - first)] / sum *
            values[static_cast<std::size_t>(p)][v_at + static_cast<std::size_t>(i)];
  }
  const Vector out = multiply(blk + "attn_output.weight", heads);
  return s.output_bias ? plus(out, blk + "attn_output.bias") : out;
}

std::vector<std::vector<double>> TinyModel::logits(std::span<const std::int32_t> tokens) const {
  const TinySpec& s = spec_;
  std::vector<std::vector<Vector>> keys(static_cast<std::size_t>(s.layers)), values(keys.size());
  std::vector<Vector> out;
  for (std::size_t position = 0; position < tokens.size(); ++position) {
    const Matrix& embedding = tensor("token_embd.weight");
    const auto row = embedding.values.begin() + static_cast<std::ptrdiff_t>(tokens[position]) * s.width;
    Vector x(row, row + s.width);
    for (double& value : x) value *= s.embedding_scale;
    for (int layer = 0; layer < s.layers; ++layer) {
      const std::string blk = "blk." + std::to_string(layer) + ".";
      const auto l = static_cast<std::size_t>(layer);
      const Vector before = s.pre_norms ? normalize(blk + "attn_norm.weight", x, 0, s.width) : x;
      Vector attended = attend(layer, static_cast<int>(position), before, keys[l], values[l]);
      if (s.post_norms) attended = normalize(blk + "post_attention_norm.weight", attended, 0, s.width);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += s.residual_scale * attended[i];
      const Vector h = s.pre_norms ? normalize(blk + s.feed_forward_norm + ".weight", x, 0, s.width) : x;
      Vector down;
      if (s.experts > 0 && layer >= s.dense_layers) {
        down = mix(blk, h);
      } else {
        const std::string up_name = blk + "ffn_up.weight";
        const bool fused = s.fused || s.fused_up;
        const Vector gate = fused ? rows_of(up_name, h, 0, s.hidden) : multiply(blk + "ffn_gate.weight", h);
        const Vector up = fused ? rows_of(up_name, h, s.hidden, s.hidden) : multiply(up_name, h);
        down = multiply(blk + "ffn_down.weight", gated(gate, up));
      }
      if (s.post_norms) down = normalize(blk + "post_ffw_norm.weight", down, 0, s.width);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += s.residual_scale * down[i];
    }
    out.push_back(
        multiply(s.tied ? "token_embd.weight" : "output.weight", normalize("output_norm.weight", x, 0, s.width)));
    for (double& value : out.back()) value /= s.logit_divisor;
    if (s.logit_cap > 0)
      for (double& value : out.back()) value = s.logit_cap * std::tanh(value / s.logit_cap);
  }
  return out;
}

}  // namespace ashlar::models
