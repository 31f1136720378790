// Qwen3-30B-A3B, Qwen3-235B-A22B (arXiv:2505.09388): Qwen3's layers with experts, whose weights add up to 1.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys, {.normalize = true}));
  if (config.experts.count == 0) return keys.bad("expert_count", "is missing or 0");
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
    list_feed_forward(config, i, layer, list);
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
    pass.feed_forward(layer);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register qwen3moe{{.name = "qwen3moe", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
