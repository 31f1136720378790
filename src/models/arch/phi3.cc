// Phi-3, Phi-3.5 and Phi-4, dense (arXiv:2404.14219): Llama's layers with q, k and v in one tensor of the file, gate
// and up in another. Long contexts stretch the rotary embedding by a factor of its own for each pair (LongRoPE,
// arXiv:2402.13753); the file has one list of factors for positions up to the original context, one for beyond.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

// Keys and values that are in the cache have turned: one list must serve all positions, so a model that was trained
// for longer contexts always gets the long one.
bool stretched(const Config& config) { return config.shape.context > config.rope.original_context; }

Result<Config> configure(const Keys& keys) {
  Config config = TRY(read_config(keys));
  config.rope.layout = kernels::RopeLayout::halves;
  config.rope.original_context =
      TRY(keys.size("rope.scaling.original_context_length", kMostContext, config.shape.context));
  config.rope.attention_factor = TRY(keys.positive("rope.scaling.attn_factor", 1.0));
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  const TensorList::Rows long_factors{"rope_factors_long.weight", config.rope.dims / 2},
      short_factors{"rope_factors_short.weight", config.rope.dims / 2};
  if (stretched(config))
    list.vector({long_factors}, weights.rope_factors);
  else
    list.optional_vector({short_factors}, weights.rope_factors);
  list.ignore(stretched(config) ? short_factors.name : long_factors.name);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    const auto name = [&](std::string_view part) { return tensor_name(i, part); };
    const int q_rows = s.heads * s.head_dim;
    list.vector({{name("attn_norm.weight"), s.width}}, layer.attention_norm);
    list.matrix({{name("attn_qkv.weight"), q_rows + 2 * s.kv_heads * s.head_dim}}, s.width, layer.qkv);
    list.matrix({{name("attn_output.weight"), s.width}}, q_rows, layer.attention_output);
    list.vector({{name("ffn_norm.weight"), s.width}}, layer.feed_forward_norm);
    list.matrix({{name("ffn_up.weight"), 2 * s.hidden}}, s.width, layer.gate_up);
    list.matrix({{name("ffn_down.weight"), s.width}}, s.hidden, layer.down);
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

const Register phi3{{.name = "phi3", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
