// OLMo 2 (arXiv:2501.00656) and 3 (Ai2, 2025), which share a name in files: no norms before attention and
// feed-forward but behind them, before x receives what they gave; and a norm over the whole of q and of k. In OLMo 3
// three layers with a window, whose rotary embedding is not stretched, stand before each that sees all positions.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  config.rope.layout = kernels::RopeLayout::halves;
  if (config.shape.sliding_window == 0) return config;
  config.shape.full_every = TRY(keys.pattern(4));
  config.window_rope = RopeConfig{.base = config.rope.base, .dims = config.rope.dims, .layout = config.rope.layout};
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention_matrices(s, i, layer, list);
    list_whole_norms(s, i, layer, list);
    list_feed_forward_matrices(s, i, layer, list);
    list_post_norms(s, i, layer, list);
  }
  list_output(s, weights, list);
}

void forward(const Weights& weights, Pass& pass) {
  pass.embed(weights.embedding);
  for (const Layer& layer : weights.layers) {
    pass.take(layer);
    pass.qkv(layer);
    pass.norm_whole(layer);
    pass.rotate();
    pass.attend(layer);
    pass.project(layer.attention_output);
    pass.post_norm(layer.attention_post_norm);

    pass.take(layer);
    pass.gated_silu(layer.gate_up);
    pass.project(layer.down);
    pass.post_norm(layer.feed_forward_post_norm);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register olmo2{{.name = "olmo2", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
