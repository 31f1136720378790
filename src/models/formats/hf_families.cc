#include "models/formats/hf_families.h"

#include <fmt/format.h>

#include <optional>

#include "models/formats/gguf.h"

namespace ashlar::models {
namespace {

constexpr Family kFamilies[] = {
    {.model_type = "llama", .stem = "Llama", .architecture = "llama"},
    {.model_type = "mistral",
     .stem = "Mistral",
     .architecture = "llama",
     .sliding_window = 4096,
     .defaults = R"({"vocab_size":32000,"hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
         "num_attention_heads":32,"num_key_value_heads":8,"max_position_embeddings":131072})"},
    {.model_type = "qwen2", .stem = "Qwen2", .architecture = "qwen2", .sliding_window = 4096, .window_switch = true},
    {.model_type = "qwen3",
     .stem = "Qwen3",
     .architecture = "qwen3",
     .head_dim = 128,
     .sliding_window = 4096,
     .window_switch = true},
    {.model_type = "mixtral",
     .stem = "Mixtral",
     .architecture = "llama",
     .defaults = R"({"rms_norm_eps":1e-5,"rope_theta":1e6,"num_local_experts":8,"num_experts_per_tok":2})"},
    {.model_type = "qwen2_moe",
     .stem = "Qwen2Moe",
     .architecture = "qwen2moe",
     .sliding_window = 4096,
     .window_switch = true,
     .defaults = R"({"num_experts":60,"num_experts_per_tok":4,"moe_intermediate_size":1408,
         "shared_expert_intermediate_size":5632})"},
    {.model_type = "qwen3_moe",
     .stem = "Qwen3Moe",
     .architecture = "qwen3moe",
     .sliding_window = 4096,
     .window_switch = true,
     .defaults = R"({"num_experts":128,"num_experts_per_tok":8,"moe_intermediate_size":768})"},
    {.model_type = "gpt_oss",
     .stem = "GptOss",
     .architecture = "gpt-oss",
     .head_dim = 64,
     .sliding_window = 128,
     .full_every = 2,
     .attention_bias = true,
     .defaults = R"({"rms_norm_eps":1e-5,"rope_theta":150000,"num_local_experts":128,"num_experts_per_tok":4})"},
    {.model_type = "deepseek_v2",
     .stem = "DeepseekV2",
     .architecture = "deepseek2",
     .defaults = R"({"scoring_func":"softmax"})"},
    {.model_type = "deepseek_v3",
     .stem = "DeepseekV3",
     .architecture = "deepseek2",
     .defaults = R"({"scoring_func":"sigmoid","topk_method":"noaux_tc","norm_topk_prob":true,
         "routed_scaling_factor":2.5})"},
    {.model_type = "granite", .stem = "Granite", .architecture = "granite"},
    {.model_type = "olmo2", .stem = "Olmo2", .architecture = "olmo2", .defaults = R"({"rms_norm_eps":1e-5})"},
    {.model_type = "olmo3",
     .stem = "Olmo3",
     .architecture = "olmo2",
     .sliding_window = 4096,
     .full_every = 4,
     .defaults = R"({"rms_norm_eps":1e-5})"},
    {.model_type = "phi3",
     .stem = "Phi3",
     .architecture = "phi3",
     .partial_rotary = true,
     .defaults = R"({"rms_norm_eps":1e-5,"original_max_position_embeddings":4096})"},
    {.model_type = "glm4",
     .stem = "Glm4",
     .architecture = "glm4",
     .head_dim = 128,
     .attention_bias = true,
     .partial_rotary = true,
     .defaults = R"({"partial_rotary_factor":0.5,"attention_bias":true})"},
    {.model_type = "gemma2",
     .stem = "Gemma2",
     .architecture = "gemma2",
     .head_dim = 256,
     .sliding_window = 4096,
     .full_every = 2,
     .gelu = true,
     .defaults = R"({"vocab_size":256000,"hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,
         "num_attention_heads":8,"num_key_value_heads":4,"max_position_embeddings":8192,"tie_word_embeddings":true,
         "query_pre_attn_scalar":256,"attn_logit_softcapping":50,"final_logit_softcapping":30})"},
    {.model_type = "gemma3_text",
     .stem = "Gemma3",
     .architecture = "gemma3",
     .head_dim = 256,
     .sliding_window = 4096,
     .full_every = 6,
     .gelu = true,
     .defaults = R"({"vocab_size":262208,"hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,
         "num_attention_heads":8,"num_key_value_heads":4,"max_position_embeddings":131072,"tie_word_embeddings":true,
         "query_pre_attn_scalar":256,"rope_theta":1e6,"rope_local_base_freq":1e4})"},
};

// nullopt: no class of the family.
std::optional<HfTask> task_of(const Family& family, std::string_view class_name) {
  if (!class_name.starts_with(family.stem)) return std::nullopt;
  class_name.remove_prefix(family.stem.size());
  if (class_name.starts_with("Text")) class_name.remove_prefix(4);
  if (class_name == "ForCausalLM") return HfTask::generate;
  if (class_name == "Model") return HfTask::embed;
  if (class_name == "ForSequenceClassification") return HfTask::classify;
  return std::nullopt;
}

std::string supported_classes() {
  std::string names;
  for (const Family& family : kFamilies) names += fmt::format("{}ForCausalLM, ", family.stem);
  return names + "BertModel, RobertaModel, XLMRobertaModel, NomicBertModel";
}

}  // namespace

Result<FamilyAndTask> find_family(const Fields& fields) {
  const auto type = TRY(fields.text("model_type"));
  std::string class_name;
  if (const Json* list = fields.find("architectures")) {
    if (!list->is_array() || list->empty() || !list->front().is_string())
      return fields.bad("architectures", "is not a list of names");
    class_name = list->front().get<std::string>();
  }
  if (!type && class_name.empty()) return fields.bad("model_type", "is missing");
  for (const Family& family : kFamilies) {
    if (type && *type != family.model_type) continue;
    const auto task = class_name.empty() ? HfTask::generate : task_of(family, class_name);
    if (task) return FamilyAndTask{&family, *task};
  }
  const std::string offered = class_name.empty() ? *type
                              : type             ? fmt::format("{} ({})", class_name, *type)
                                                 : class_name;
  return Error{Code::unsupported, fmt::format("{}: not supported: {}; supported: {}", fields.place(),
                                              gguf::quoted(offered), supported_classes())};
}

}  // namespace ashlar::models
