#include "models/tiny_model_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/result.h"
#include "base/threads.h"
#include "models/random_weights.h"

namespace ashlar::models {

using kernels::Type;

constexpr double kEpsilon = 1e-5;

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

}  // namespace ashlar::models
