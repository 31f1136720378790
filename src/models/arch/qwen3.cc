// Qwen3 (arXiv:2505.09388): no biases, but a norm over each head of q and k
// before they turn. The head's size is a key of its own.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  config.rope.layout = kernels::RopeLayout::halves;
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

    pass.norm(layer.feed_forward_norm);
    pass.gated_silu(layer.gate_up);
    pass.project(layer.down);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register qwen3{{.name = "qwen3", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
