#include <fmt/format.h>

#include "models/formats/gguf.h"
#include "models/formats/hf_config_parts.h"

namespace ashlar::models {
namespace {

// DeepSeek's groups of experts and how they are chosen from.
Status read_expert_groups(const Fields& fields, const Family& family, ExpertsConfig& e) {
  const auto scores = TRY(fields.text("scoring_func")).value_or("softmax");
  if (scores != "softmax" && scores != "sigmoid")
    return fields.bad("scoring_func", fmt::format("is {}; softmax and sigmoid are supported", gguf::quoted(scores)),
                      Code::unsupported);
  if (scores == "sigmoid") e.scores = ExpertsConfig::Scores::sigmoid;
  const auto method = TRY(fields.text("topk_method")).value_or("greedy");
  if (method != "greedy" && method != "group_limited_greedy" && method != "noaux_tc")
    return fields.bad("topk_method", fmt::format("is {}, which is not supported", gguf::quoted(method)),
                      Code::unsupported);
  e.scale = static_cast<float>(TRY(fields.positive("routed_scaling_factor", 1.0)));
  if (family.model_type == "deepseek_v2" && e.normalize) e.scale = 1;  // it does either
  if (method == "greedy") return {};
  e.groups = TRY(fields.size("n_group", e.count, 1));
  if (e.count % e.groups != 0)
    return fields.bad("n_group", fmt::format("is {}, which does not divide {} experts", e.groups, e.count));
  e.groups_used = TRY(fields.size("topk_group", e.groups, e.groups));
  return {};
}

}  // namespace

Status read_experts(const Fields& fields, const Family& family, Config& config) {
  const Shape& s = config.shape;
  ExpertsConfig& e = config.experts;
  const bool latent = s.architecture == "deepseek2", local = fields.find("num_local_experts") != nullptr;
  const char* count = latent ? "n_routed_experts" : local ? "num_local_experts" : "num_experts";
  if (fields.find(count) == nullptr || (s.architecture == "llama" && family.model_type != "mixtral")) return {};
  e.count = TRY(fields.size(count, kMostExperts));
  e.used = TRY(fields.size("num_experts_per_tok", e.count));
  e.hidden = local ? s.hidden : TRY(fields.size("moe_intermediate_size", kMostHidden));
  e.normalize = local || TRY(fields.flag("norm_topk_prob")).value_or(false);
  e.first_layer = TRY(fields.whole("first_k_dense_replace", 0, s.layers)).value_or(0);
  for (const char* name : {"decoder_sparse_step", "moe_layer_freq"})
    if (TRY(fields.whole(name, 0, kMostLayers)).value_or(1) != 1)
      return fields.bad(name, "is not 1, which is not supported", Code::unsupported);
  if (const Json* dense = fields.find("mlp_only_layers"); dense != nullptr && !dense->empty())
    return fields.bad("mlp_only_layers", "is not empty, which is not supported", Code::unsupported);
  if (TRY(fields.number("swiglu_limit", 0, 1e6)).value_or(7) != 7)
    return fields.bad("swiglu_limit", "is not 7, which is not supported", Code::unsupported);
  if (s.architecture == "qwen2moe") e.shared_hidden = TRY(fields.size("shared_expert_intermediate_size", kMostHidden));
  if (!latent) return {};
  const int shared = TRY(fields.whole("n_shared_experts", 0, kMostHidden / e.hidden)).value_or(0);
  e.shared_hidden = shared * e.hidden;
  return read_expert_groups(fields, family, e);
}

}  // namespace ashlar::models
