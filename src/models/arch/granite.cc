// Granite 3.x, dense (IBM, 2024; the scales are those of muP, arXiv:2203.03466): Llama's layers with four
// factors that the file gives: of the embedding's rows, of q, of what each half of a layer adds, and of the logits.
#include <fmt/format.h>

#include "models/architecture.h"

namespace ashlar::models {
namespace {

// A factor that floats bear.
Result<float> factor(const Keys& keys, std::string_view key) {
  const double value = TRY(keys.positive(key));
  if (value < 1e-6 || value > 1e6) return keys.bad(key, fmt::format("is {}; 1e-6 to 1e6 are possible", value));
  return static_cast<float>(value);
}

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  config.rope.layout = kernels::RopeLayout::adjacent;  // converters interleave the rows of W_q and W_k
  // Here this key tells whether there is a rotary embedding at all.
  if (!TRY(keys.get<bool>("rope.scaling.finetuned", true)))
    return keys.bad("rope.scaling.finetuned", "is false; models without rotary embedding are not supported",
                    Code::unsupported);
  config.embedding_scale = TRY(factor(keys, "embedding_scale"));
  config.residual_scale = TRY(factor(keys, "residual_scale"));
  config.attention_scale = TRY(factor(keys, "attention.scale"));
  config.logit_scale = 1 / TRY(factor(keys, "logit_scale"));
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  list.optional_vector({{"rope_freqs.weight", config.rope.dims / 2}}, weights.rope_factors);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention(s, i, layer, list);
    list_qkv_bias(s, i, layer, list, /*optional=*/true);
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

const Register granite{{.name = "granite", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
