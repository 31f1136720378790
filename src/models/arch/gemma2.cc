// Gemma 2 (arXiv:2408.00118): norms before and behind attention and feed-forward, a feed-forward gated by GELU, a
// window in every other layer, beginning with the first, and bounds on the scores of attention and on the logits. Norm
// weights are stored as they multiply.
#include <fmt/format.h>

#include <cmath>

#include "models/architecture.h"

namespace ashlar::models {
namespace {

constexpr int kLayersOf27B = 46;

// 0: there is none.
Result<float> bound(const Keys& keys, std::string_view key) {
  const double cap = TRY(keys.get<double>(key, 0.0));
  if (cap != 0 && !(cap >= 1e-6 && cap <= 1e6))
    return keys.bad(key, fmt::format("is {}; 1e-6 to 1e6 are possible", cap));
  return static_cast<float>(cap);
}

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  Shape& s = config.shape;
  config.rope.layout = kernels::RopeLayout::halves;
  if (s.sliding_window < 1) return keys.bad("attention.sliding_window", "is missing or 0");
  s.full_every = TRY(keys.pattern(2));
  config.embedding_scale = std::sqrt(static_cast<float>(s.width));
  // The largest of them divides by the root of width / heads, the others by that of the head's size.
  const double usual = s.layers == kLayersOf27B ? std::sqrt(static_cast<double>(s.heads) / s.width)
                                                : 1 / std::sqrt(static_cast<double>(s.head_dim));
  config.attention_scale = static_cast<float>(TRY(keys.positive("attention.scale", usual)));
  config.attention_cap = TRY(bound(keys, "attn_logit_softcapping"));
  config.logit_cap = TRY(bound(keys, "final_logit_softcapping"));
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention(s, i, layer, list);
    list_feed_forward(s, i, layer, list);
    list_post_norms(s, i, layer, list);
  }
  list_output(s, weights, list);
}

void forward(const Weights& weights, Pass& pass) {
  pass.embed(weights.embedding);
  for (const Layer& layer : weights.layers) {
    pass.norm(layer.attention_norm);
    pass.qkv(layer);
    pass.rotate();
    pass.attend(layer);
    pass.project(layer.attention_output);
    pass.post_norm(layer.attention_post_norm);

    pass.norm(layer.feed_forward_norm);
    pass.gated_gelu(layer.gate_up);
    pass.project(layer.down);
    pass.post_norm(layer.feed_forward_post_norm);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register gemma2{{.name = "gemma2", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
