// The plain forward pass of the tiny models.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "models/tiny_model_test.h"

namespace ashlar::models {

constexpr double kEpsilon = 1e-5;

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
