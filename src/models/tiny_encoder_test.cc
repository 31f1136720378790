#include "models/tiny_encoder_test.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "base/threads.h"
#include "models/random_weights.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

using kernels::Type;
constexpr double kEpsilon = 1e-12;
constexpr double kRopeBase = 1000;
std::size_t size(int n) { return static_cast<std::size_t>(n); }

}  // namespace

TinyEncoder::TinyEncoder(const TinyEncoderSpec& spec) : spec_(spec) {
  const TinyEncoderSpec& s = spec_;
  const auto number = [&](const char* key, int value) {
    writer_.add(s.architecture + "." + key, static_cast<std::uint32_t>(value));
  };
  writer_.add("general.architecture", s.architecture);
  number("block_count", s.layers);
  number("context_length", s.context);
  number("embedding_length", s.width);
  number("feed_forward_length", s.hidden);
  number("attention.head_count", s.heads);
  writer_.add(s.architecture + ".attention.layer_norm_epsilon", static_cast<float>(kEpsilon));
  writer_.add(s.architecture + ".attention.causal", false);
  if (s.pooling >= 0) number("pooling_type", s.pooling);
  if (s.tanh_gelu) writer_.add(s.architecture + ".hidden_activation", "gelu_new");
  const bool gated = s.architecture == "nomic-bert";
  if (gated) writer_.add(s.architecture + ".rope.freq_base", static_cast<float>(kRopeBase));

  const double spread = s.deviation > 0 ? s.deviation : 1 / std::sqrt(s.width);
  const auto layer = [&](const std::string& name, int rows, int columns, bool bias) {
    add(name + ".weight", rows, columns, s.type, spread);
    if (bias) add(name + ".bias", 1, rows, Type::f32, 0.3);
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", 1, s.width, Type::f32, 0.2, 1);
    add(name + ".bias", 1, s.width, Type::f32, 0.2);
  };
  add("token_embd.weight", s.vocabulary, s.width, s.type, 1);
  if (s.types > 0) add("token_types.weight", s.types, s.width, Type::f32, 0.5);
  if (!gated) add("position_embd.weight", s.context, s.width, s.type, 0.5);
  norm("token_embd_norm");
  for (int i = 0; i < s.layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    if (s.fused)
      layer(blk + "attn_qkv", 3 * s.width, s.width, s.biases);
    else
      for (const char* part : {"attn_q", "attn_k", "attn_v"}) layer(blk + part, s.width, s.width, s.biases);
    layer(blk + "attn_output", s.width, s.width, s.biases);
    norm(blk + "attn_output_norm");
    if (gated) layer(blk + "ffn_gate", s.hidden, s.width, false);
    layer(blk + "ffn_up", s.hidden, s.width, s.biases);
    layer(blk + "ffn_down", s.width, s.hidden, s.biases);
    norm(blk + "layer_output_norm");
  }
  if (s.dense) layer("cls", s.width, s.width, true);
  if (s.labels > 0) layer("cls.output", s.labels, s.width, true);
}

void TinyEncoder::add(const std::string& name, int rows, int columns, Type type, double deviation, double mean) {
  Matrix& m = tensors_[name];
  m.rows = rows;
  m.columns = columns;
  m.bytes.resize(kernels::row_bytes(type, columns) * size(rows));
  ThreadPool pool(1);
  fill_random(type, deviation, spec_.seed * 1000 + tensors_.size(), m.bytes, pool);
  for (std::size_t at = 0; mean != 0 && at < m.bytes.size(); at += 4) {
    float value;
    std::memcpy(&value, m.bytes.data() + at, 4);
    value += static_cast<float>(mean);
    std::memcpy(m.bytes.data() + at, &value, 4);
  }
  m.values = plain_values(type, m.bytes);
  std::vector<std::int64_t> dims{columns};
  if (!name.ends_with(".bias") && name.find("norm") == std::string::npos) dims.push_back(rows);
  writer_.add_tensor(name, type, dims, m.bytes);
}

TinyEncoder::Vector TinyEncoder::multiply(const std::string& name, const Vector& x, int first, int count) const {
  const Matrix& m = tensors_.at(name + ".weight");
  if (count < 0) count = m.rows;
  Vector y(size(count), 0.0);
  for (std::size_t r = 0; r < y.size(); ++r) {
    for (std::size_t c = 0; c < x.size(); ++c) y[r] += m.values[(size(first) + r) * x.size() + c] * x[c];
    if (has(name + ".bias")) y[r] += values(name + ".bias")[size(first) + r];
  }
  return y;
}

TinyEncoder::Vector TinyEncoder::norm(const std::string& name, const Vector& x) const {
  double mean = 0, variance = 0;
  for (const double value : x) mean += value / static_cast<double>(x.size());
  for (const double value : x) variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
  Vector y = x;
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] = (x[i] - mean) / std::sqrt(variance + kEpsilon) * values(name + ".weight")[i] + values(name + ".bias")[i];
  return y;
}

void TinyEncoder::rotate(Vector& x, int position) const {
  const int n = spec_.width / spec_.heads;
  for (int head = 0; head < spec_.heads; ++head)
    for (int pair = 0; pair < n / 2; ++pair) {
      const double theta = position * std::pow(kRopeBase, -2.0 * pair / n);
      double &a = x[size(head * n + pair)], &b = x[size(head * n + pair + n / 2)];
      const double first = a, second = b;
      a = first * std::cos(theta) - second * std::sin(theta);
      b = first * std::sin(theta) + second * std::cos(theta);
    }
}

std::vector<TinyEncoder::Vector> TinyEncoder::attend(const std::string& blk, const std::vector<Vector>& x) const {
  const int width = spec_.width, n = width / spec_.heads;
  std::vector<Vector> q, k, v, out;
  for (const Vector& row : x) {
    if (spec_.fused) {
      q.push_back(multiply(blk + "attn_qkv", row, 0, width));
      k.push_back(multiply(blk + "attn_qkv", row, width, width));
      v.push_back(multiply(blk + "attn_qkv", row, 2 * width, width));
    } else {
      q.push_back(multiply(blk + "attn_q", row));
      k.push_back(multiply(blk + "attn_k", row));
      v.push_back(multiply(blk + "attn_v", row));
    }
    if (spec_.architecture != "nomic-bert") continue;
    rotate(q.back(), static_cast<int>(q.size()) - 1);
    rotate(k.back(), static_cast<int>(k.size()) - 1);
  }
  for (const Vector& query : q) {
    Vector found(size(width), 0.0);
    for (int head = 0; head < spec_.heads; ++head) {
      Vector weights;
      double sum = 0;
      for (const Vector& key : k) {
        double dot = 0;
        for (int i = head * n; i < (head + 1) * n; ++i) dot += query[size(i)] * key[size(i)];
        weights.push_back(std::exp(dot / std::sqrt(n)));
        sum += weights.back();
      }
      for (std::size_t p = 0; p < v.size(); ++p)
        for (int i = head * n; i < (head + 1) * n; ++i) found[size(i)] += weights[p] / sum * v[p][size(i)];
    }
    out.push_back(multiply(blk + "attn_output", found));
  }
  return out;
}

std::vector<TinyEncoder::Vector> TinyEncoder::rows(std::span<const std::int32_t> tokens,
                                                   std::span<const std::uint8_t> types) const {
  const std::size_t width = size(spec_.width);
  std::vector<Vector> x;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    Vector row(width);
    for (std::size_t i = 0; i < width; ++i) {
      row[i] = values("token_embd.weight")[static_cast<std::size_t>(tokens[t]) * width + i];
      if (spec_.types > 0) row[i] += values("token_types.weight")[(types.empty() ? 0 : types[t]) * width + i];
      if (has("position_embd.weight")) row[i] += values("position_embd.weight")[t * width + i];
    }
    x.push_back(norm("token_embd_norm", row));
  }
  for (int layer = 0; layer < spec_.layers; ++layer) {
    const std::string blk = "blk." + std::to_string(layer) + ".";
    const std::vector<Vector> attended = attend(blk, x);
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t i = 0; i < width; ++i) x[t][i] += attended[t][i];
      x[t] = norm(blk + "attn_output_norm", x[t]);
      Vector inner = multiply(blk + "ffn_up", x[t]);
      if (has(blk + "ffn_gate.weight")) {
        const Vector gate = multiply(blk + "ffn_gate", x[t]);
        for (std::size_t i = 0; i < inner.size(); ++i) inner[i] *= gate[i] / (1 + std::exp(-gate[i]));
      } else {
        for (double& g : inner) {
          const double cubic = std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g);
          g = g / 2 * (1 + (spec_.tanh_gelu ? std::tanh(cubic) : std::erf(g / std::numbers::sqrt2)));
        }
      }
      const Vector down = multiply(blk + "ffn_down", inner);
      for (std::size_t i = 0; i < width; ++i) x[t][i] += down[i];
      x[t] = norm(blk + "layer_output_norm", x[t]);
    }
  }
  return x;
}

std::vector<double> TinyEncoder::encode(std::span<const std::int32_t> tokens,
                                        std::span<const std::uint8_t> types) const {
  const std::vector<Vector> all = rows(tokens, types);
  const bool head = spec_.dense || spec_.labels > 0;
  const int pooling = spec_.pooling >= 0 ? spec_.pooling : head ? 4 : 1;
  if (pooling == 3) return all.back();
  if (pooling == 2) return all.front();
  if (pooling == 4) {
    Vector x = all.front();
    if (spec_.dense) {
      x = multiply("cls", x);
      for (double& value : x) value = std::tanh(value);
    }
    return spec_.labels > 0 ? multiply("cls.output", x) : x;
  }
  Vector mean(size(spec_.width), 0.0);
  for (const Vector& row : all)
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += row[i] / static_cast<double>(all.size());
  return mean;
}

}  // namespace ashlar::models
