// BERT (arXiv:1810.04805), and what has its layers: RoBERTa, XLM-RoBERTa and their kin (MiniLM, BGE, E5, GTE).
// Positions are learned. RoBERTa's first positions stand for padding: writers leave those rows out.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) { return read_encoder_config(keys); }

void list_tensors(const Config& config, const TensorSource& source, EncoderWeights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embeddings(config, weights, list);
  list.embedding("position_embd.weight", s.context, s.width, weights.positions);
  for (int i = 0; i < s.layers; ++i) {
    EncoderLayer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_encoder_attention(s, source, i, layer, list);
    list_encoder_feed_forward(s, /*gated=*/false, i, layer, list);
  }
}

void forward(const EncoderWeights& weights, EncoderPass& pass) {
  pass.embed(weights);
  pass.norm(weights.embedding_norm);
  for (const EncoderLayer& layer : weights.layers) {
    pass.qkv(layer);
    pass.attend();
    pass.add(layer.attention_output, layer.attention_output_bias);
    pass.norm(layer.attention_norm);

    pass.up(layer);
    pass.add(layer.down, layer.down_bias);
    pass.norm(layer.output_norm);
  }
}

const RegisterEncoder bert{{.name = "bert", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
