// Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115): Llama's layers with a bias
// on q, k and v.
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
    list_qkv_bias(s, i, layer, list, /*optional=*/false);
    list_feed_forward(s, i, layer, list);
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

    pass.norm(layer.feed_forward_norm);
    pass.gated_silu(layer.gate_up);
    pass.project(layer.down);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register qwen2{{.name = "qwen2", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
