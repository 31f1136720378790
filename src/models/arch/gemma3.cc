// Gemma 3, text (arXiv:2503.19786): norms before and behind attention and feed-forward and over each head of q and k,
// a feed-forward gated by GELU, and five layers with a window, with a rotary embedding of their own, to one that sees
// all positions. Norm weights are stored as they multiply.
#include <fmt/format.h>

#include <cmath>

#include "models/architecture.h"

namespace ashlar::models {
namespace {

constexpr int kLayersOf27B = 62;

Status refuse_caps(const Keys& keys) {
  for (const std::string_view key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    const auto cap = TRY(keys.get<double>(key, 0.0));
    if (cap != 0) return keys.bad(key, fmt::format("is {}; capped logits are not supported", cap), Code::unsupported);
  }
  return {};
}

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  TRY(refuse_caps(keys));
  Shape& s = config.shape;
  config.rope.layout = kernels::RopeLayout::halves;
  if (s.sliding_window < 1) return keys.bad("attention.sliding_window", "is missing or 0");
  s.full_every = TRY(keys.pattern(6));
  RopeConfig local{.base = TRY(keys.positive("rope.freq_base_swa", 10000.0)),
                   .dims = config.rope.dims,
                   .layout = config.rope.layout};
  if (local.base <= 1) return keys.bad("rope.freq_base_swa", fmt::format("is {}; more than 1 is expected", local.base));
  config.window_rope = local;
  config.embedding_scale = std::sqrt(static_cast<float>(s.width));
  // Most files do not tell; the largest of them divides by the root of width / heads, the others by that of the head's
  // size.
  if (s.layers == kLayersOf27B) config.attention_scale = std::sqrt(static_cast<float>(s.heads) / s.width);
  config.attention_scale =
      static_cast<float>(TRY(keys.positive("attention.scale", static_cast<double>(config.attention_scale))));
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention(s, i, layer, list);
    list_head_norms(s, i, layer, list);
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
    pass.norm_heads(layer);
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

const Register gemma3{{.name = "gemma3", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
