// GLM-4-0414, dense (Zhipu AI, 2025): norms before and behind attention and feed-forward, biases on q, k and v, a
// rotary embedding of neighbours over a part of each head, gate and up in one tensor of the file.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  config.rope.layout = kernels::RopeLayout::adjacent;
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention(s, i, layer, list);
    list_qkv_bias(s, i, layer, list, /*optional=*/true);
    list.vector({{tensor_name(i, "ffn_norm.weight"), s.width}}, layer.feed_forward_norm);
    list.matrix({{tensor_name(i, "ffn_up.weight"), 2 * s.hidden}}, s.width, layer.gate_up);
    list.matrix({{tensor_name(i, "ffn_down.weight"), s.width}}, s.hidden, layer.down);
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
    pass.gated_silu(layer.gate_up);
    pass.project(layer.down);
    pass.post_norm(layer.feed_forward_post_norm);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register glm4{{.name = "glm4", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
