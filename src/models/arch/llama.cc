// Llama 1 to 3.x (arXiv:2302.13971, 2407.21783), and what copies its layers:
// TinyLlama, Mistral with its sliding window (arXiv:2310.06825), Mixtral with experts (arXiv:2401.04088).
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys, {.normalize = true}));
  config.rope.layout = kernels::RopeLayout::adjacent;  // converters interleave the rows of W_q and W_k
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  // Llama 3 divides each rope frequency by a factor.
  list.optional_vector({{"rope_freqs.weight", config.rope.dims / 2}}, weights.rope_factors);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention(s, i, layer, list);
    list_qkv_bias(s, i, layer, list, /*optional=*/true);
    list_feed_forward(config, i, layer, list);
    list.ignore(tensor_name(i, "attn_rot_embd.weight"));  // old converters stored the rope frequencies
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
    pass.feed_forward(layer);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register llama{{.name = "llama", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
