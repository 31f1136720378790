// gpt-oss 20B and 120B (OpenAI, arXiv:2508.10925): experts in MXFP4 with biases and a clamped gate, biases in attention
// too, a learned sink for each head, and a window in every other layer, the first included.
#include "models/architecture.h"

namespace ashlar::models {
namespace {

Result<Config> configure(const Keys& keys) {
  Config config =
      TRY(read_config(keys, {.scores = ExpertsConfig::Scores::softmax_of_chosen, .biases = true, .clamped = true}));
  if (config.experts.count == 0) return keys.bad("expert_count", "is missing or 0");
  config.rope.layout = kernels::RopeLayout::halves;
  config.rope.whole_pairs = false;
  config.shape.full_every = TRY(keys.size("attention.sliding_window_pattern", kMostPattern, 2));
  return config;
}

void list_tensors(const Config& config, Weights& weights, TensorList& list) {
  const Shape& s = config.shape;
  list_embedding(s, weights, list);
  for (int i = 0; i < s.layers; ++i) {
    Layer& layer = weights.layers[static_cast<std::size_t>(i)];
    list_attention(s, i, layer, list);
    list_qkv_bias(s, i, layer, list, /*optional=*/false);
    list.vector({{tensor_name(i, "attn_sinks.weight"), s.heads}}, layer.sinks);
    list.vector({{tensor_name(i, "attn_output.bias"), s.width}}, layer.attention_output_bias);
    list.vector({{tensor_name(i, "post_attention_norm.weight"), s.width}}, layer.feed_forward_norm);
    list_experts(config, i, layer.experts, list);
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
    pass.project(layer.attention_output, layer.attention_output_bias);

    pass.norm(layer.feed_forward_norm);
    pass.feed_forward(layer);
  }
  pass.norm(weights.output_norm);
  pass.logits(weights.output);
}

const Register gpt_oss{{.name = "gpt-oss", .configure = configure, .list_tensors = list_tensors, .forward = forward}};

}  // namespace
}  // namespace ashlar::models
