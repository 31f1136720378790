// DeepSeek-V2, V2-Lite, V3, R1 (arXiv:2405.04434, 2412.19437): latent attention, and after some dense layers experts
// with a shared part. Keys and values are kept in full, as each head needs them.
#include <fmt/format.h>

#include <cmath>

#include "models/architecture.h"

namespace ashlar::models {
namespace {

// The last layers of some files predict further tokens; they are not run.
Status leave_out_layers(const Keys& keys, Config& config) {
  const auto further = TRY(keys.get<std::int64_t>("nextn_predict_layers", 0));
  if (further < 0 || further > kMostLayers)
    return keys.bad("nextn_predict_layers", fmt::format("is {}; 0 to {} are possible", further, kMostLayers));
  config.further_layers = further > 0;
  int& layers = config.shape.layers;  // with or without them
  for (std::int64_t i = 0; i < further && layers > 1; ++i)
    if (keys.file().find_tensor(tensor_name(layers - 1, "nextn.eh_proj.weight")) != nullptr) --layers;
  return {};
}

// Files that keep what makes keys apart from what makes values say the sizes of the short vector under the usual names,
// and those of a head under their own.
Status read_latent(const Keys& keys, Shape& s, LatentConfig& c) {
  s.heads = s.kv_heads = TRY(keys.size("attention.head_count", kMostHeads));
  c.rank = TRY(keys.size("attention.kv_lora_rank", kMostWidth));
  if (TRY(keys.get<std::int64_t>("attention.q_lora_rank", 0)) != 0)
    c.query_rank = TRY(keys.size("attention.q_lora_rank", kMostWidth));
  const auto length = [&](std::string_view key) -> Result<int> {
    const std::string own = fmt::format("{}_mla", key);
    const bool has_own = keys.file().find(fmt::format("{}.{}", keys.architecture(), own)) != nullptr;
    return keys.size(has_own ? std::string_view(own) : key, kMostHeadDim);
  };
  s.head_dim = TRY(length("attention.key_length"));
  c.value_dim = TRY(length("attention.value_length"));
  if (s.head_dim % 8 != 0)
    return keys.bad("attention.key_length", fmt::format("makes heads of {}; multiples of 8 are supported", s.head_dim),
                    Code::unsupported);
  if (c.value_dim > s.head_dim)
    return keys.bad("attention.value_length",
                    fmt::format("is {}; up to {}, the length of the keys, is supported", c.value_dim, s.head_dim),
                    Code::unsupported);
  c.split = keys.file().find_tensor(tensor_name(0, "attn_k_b.weight")) != nullptr;
  return {};
}

// YaRN's length is taken out of the turned parts and squared into the scale of all scores.
Status read_scale(const Keys& keys, Config& config) {
  config.attention_scale = 1 / std::sqrt(static_cast<float>(config.shape.head_dim));
  RopeConfig& r = config.rope;
  if (r.scaling != RopeConfig::Scaling::yarn) return {};
  const double multiplier = TRY(keys.get<double>("rope.scaling.yarn_log_multiplier", 0.0));
  if (!(multiplier >= 0 && multiplier <= 1))
    return keys.bad("rope.scaling.yarn_log_multiplier", "is not between 0 and 1");
  const double length = 1 + multiplier * std::log(r.factor);
  config.attention_scale *= static_cast<float>(length * length);
  if (r.extrapolation != 0) r.attention_factor /= 1 + 0.1 * std::log(r.factor);
  return {};
}

Status read_layers(const Keys& keys, const Shape& s, ExpertsConfig& e) {
  const auto dense = TRY(keys.get<std::int64_t>("leading_dense_block_count", 0));
  if (dense < 0 || dense > s.layers)
    return keys.bad("leading_dense_block_count", fmt::format("is {}; 0 to {} are possible", dense, s.layers));
  e.first_layer = static_cast<int>(dense);
  if (TRY(keys.get<std::int64_t>("expert_shared_count", 0)) == 0) return {};
  const int shared = TRY(keys.size("expert_shared_count", kMostExperts));
  if (shared > kMostHidden / e.hidden)
    return keys.bad("expert_shared_count", fmt::format("is {}, of {} each", shared, e.hidden));
  e.shared_hidden = shared * e.hidden;
  return {};
}

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_sizes(keys));
  TRY(leave_out_layers(keys, config));
  Shape& s = config.shape;
  TRY(read_latent(keys, s, config.latent));
  TRY(read_rope(keys, s, config.rope));
  config.rope.layout = kernels::RopeLayout::adjacent;
  config.latent.own_dims = s.head_dim - config.rope.dims;
  if (config.latent.own_dims < 1)
    return keys.bad("rope.dimension_count",
                    fmt::format("is {}; less than the head's {} is expected", config.rope.dims, s.head_dim));
  TRY(read_scale(keys, config));
  config.experts = TRY(read_experts(keys, {.choice_bias = true}, s));
  if (config.experts.count > 0) TRY(read_layers(keys, s, config.experts));
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_latent_attention(config, i, layer, list);
    list_feed_forward(config, i, layer, list);
  }
  list_output(s, weights, list);
  if (config.further_layers) list.ignore_layers_from(s.layers);
}

void forward(const Weights& weights, Pass& pass) {
  pass.embed(weights.embedding);
  for (const Layer& layer : weights.layers) {
    pass.norm(layer.attention_norm);
    pass.latent_qkv(layer);
    pass.attend(layer);
    pass.project(layer.attention_output);

    pass.norm(layer.feed_forward_norm);
    pass.feed_forward(layer);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register deepseek2{
    {.name = "deepseek2", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
