// Nomic's BERT (arXiv:2402.01613): q and k turn by their positions, and the feed-forward is gated.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_encoder_config(keys));
  config.rope.layout = kernels::RopeLayout::halves;
  return config;
}

void list_tensors(const Config& config, const TensorSource& source, EncoderWeights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embeddings(config, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    EncoderLayer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_encoder_attention(s, source, i, layer, list);
    list_encoder_feed_forward(s, /*gated=*/true, i, layer, list);
  }
}

void forward(const EncoderWeights& weights, EncoderPass& pass) {
  pass.embed(weights);
  pass.norm(weights.embedding_norm);
  for (const EncoderLayer& layer : weights.layers) {
    pass.qkv(layer);
    pass.rotate();
    pass.attend();
    pass.add(layer.attention_output, layer.attention_output_bias);
    pass.norm(layer.attention_norm);

    pass.gated_silu(layer);
    pass.add(layer.down, layer.down_bias);
    pass.norm(layer.output_norm);
  }
}

const RegisterEncoder nomic_bert{
    {.name = "nomic-bert", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
