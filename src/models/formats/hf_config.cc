#include "models/formats/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/mapped_file.h"
#include "models/formats/gguf.h"
#include "models/formats/hf_absent.h"
#include "models/formats/hf_config_parts.h"
#include "models/formats/hf_pooling.h"

namespace ashlar::models {
namespace {

constexpr std::size_t kMostEnds = 256;
// Models that see, whose "text_config" is one of the families.
constexpr std::string_view kWrappings[] = {"gemma3", "mistral3"};

// Factors and bounds of single families.
Status read_factors(const Fields& fields, Config& c) {
  const std::string_view architecture = c.shape.architecture;
  if (architecture == "granite") {
    c.embedding_scale = static_cast<float>(TRY(fields.positive("embedding_multiplier", 1.0)));
    c.residual_scale = static_cast<float>(TRY(fields.positive("residual_multiplier", 1.0)));
    c.attention_scale = static_cast<float>(TRY(fields.positive("attention_multiplier", 1.0)));
    c.logit_scale = static_cast<float>(1 / TRY(fields.positive("logits_scaling", 1.0)));
  }
  if (architecture != "gemma2" && architecture != "gemma3") return {};
  const double scalar = TRY(fields.positive("query_pre_attn_scalar", 256.0));
  c.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  const auto cap = [&](const char* name) -> Result<float> {
    const auto found = TRY(fields.number(name, 1e-6, 1e6));
    if (found && architecture == "gemma3") return fields.bad(name, "is not supported", Code::unsupported);
    return static_cast<float>(found.value_or(0));
  };
  c.attention_cap = TRY(cap("attn_logit_softcapping"));
  c.logit_cap = TRY(cap("final_logit_softcapping"));
  if (TRY(fields.flag("use_bidirectional_attention")).value_or(false))
    return fields.bad("use_bidirectional_attention", "is true, which is not supported", Code::unsupported);
  return {};
}

// What the layers would compute otherwise than the model was trained.
Status refuse_variants(const Fields& fields, const Family& family) {
  if (family.gelu) {
    const std::string act = TRY(fields.text("hidden_activation")).value_or("gelu_pytorch_tanh");
    if (act != "gelu_pytorch_tanh")
      return fields.bad("hidden_activation", fmt::format("is {}; gelu_pytorch_tanh is supported", gguf::quoted(act)),
                        Code::unsupported);
  } else {
    const std::string act = TRY(fields.text("hidden_act")).value_or("silu");
    if (act != "silu" && act != "swish")
      return fields.bad("hidden_act", fmt::format("is {}; silu is supported", gguf::quoted(act)), Code::unsupported);
  }
  for (const std::string_view name : {"attention_bias", "mlp_bias"})
    if (TRY(fields.flag(name)).value_or(false) && !(family.attention_bias && name == "attention_bias"))
      return fields.unsupported(name, "is true, which is not supported");
  if (!TRY(fields.flag("is_causal")).value_or(true))
    return fields.unsupported("is_causal",
                              "is false, which is not supported; decoders whose rows see only those before");
  return {};
}

// One id or a list of them. What the other file said is replaced.
Status read_ends(const Fields& fields, int vocabulary, std::vector<std::int32_t>& eos) {
  const Json* value = fields.find("eos_token_id");
  if (value == nullptr) return {};
  eos.clear();
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kMostEnds) return fields.bad("eos_token_id", fmt::format("has more than {} tokens", kMostEnds));
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary))
      return fields.bad("eos_token_id", fmt::format("is not of tokens below {}", vocabulary));
    eos.push_back(id.get<std::int32_t>());
  }
  return {};
}

Status read_tokens(const Fields& fields, HfConfig& out) {
  const int vocabulary = out.config.shape.vocabulary;
  if (const auto bos = TRY(fields.whole("bos_token_id", 0, vocabulary - 1))) out.bos = *bos;
  return read_ends(fields, vocabulary, out.eos);
}

Status read_sampling(const Fields& fields, SamplingAdvice& s) {
  s.sample = TRY(fields.flag("do_sample"));
  s.temperature = TRY(fields.number("temperature", 0, 100));
  s.top_p = TRY(fields.number("top_p", 0, 1));
  s.min_p = TRY(fields.number("min_p", 0, 1));
  s.repetition_penalty = TRY(fields.number("repetition_penalty", 0, 100));
  s.top_k = TRY(fields.whole("top_k", -1, std::numeric_limits<int>::max()));  // 0 and -1: all
  return {};
}

// Whether the folder holds more than a text model: of a wrapping that is known, with its text model described.
Result<bool> is_wrapping(const Fields& fields) {
  const auto type = TRY(fields.text("model_type"));
  if (!type || std::ranges::find(kWrappings, *type) == std::end(kWrappings)) return false;
  return TRY(fields.object("text_config")).has_value();
}

Status read_model(const Fields& fields, const Family& family, HfConfig& out) {
  Shape& s = out.config.shape;
  s.architecture = family.architecture;
  s.layers = TRY(fields.size("num_hidden_layers", kMostLayers));
  s.width = TRY(fields.size("hidden_size", kMostWidth));
  s.hidden = TRY(fields.size("intermediate_size", kMostHidden));
  s.vocabulary = TRY(fields.size("vocab_size", kMostVocabulary));
  s.context = TRY(fields.size("max_position_embeddings", kMostContext));
  TRY(read_attention(fields, family, out.config));
  TRY(read_rope(fields, family, out));
  TRY(refuse_variants(fields, family));
  TRY(read_factors(fields, out.config));
  TRY(read_experts(fields, family, out.config));
  out.config.rms_epsilon = static_cast<float>(TRY(fields.positive("rms_norm_eps", 1e-6)));
  out.tied_embedding = TRY(fields.flag("tie_word_embeddings")).value_or(false);
  return {};
}

}  // namespace

Result<HfConfig> read_hf_config(std::string_view config, std::string_view generation, std::string_view folder) {
  FieldsFile file = TRY(FieldsFile::read(config, fmt::format("{}/config.json", folder)));
  const Fields outer = file.fields();
  HfConfig out;
  out.nested = TRY(is_wrapping(outer));
  Json json = out.nested ? *outer.find("text_config") : file.json;
  const std::string prefix = out.nested ? "text_config." : "";
  const auto [family, task] = TRY(find_family(Fields(json, file.place, prefix)));
  out.task = task;
  const Json defaults = family->defaults.empty() ? Json::object() : TRY(parse_json(family->defaults));
  for (const auto& [name, value] : defaults.items())
    if (!json.contains(name)) json[name] = value;
  const Fields fields(json, file.place, prefix);
  TRY(read_model(fields, *family, out));
  if (out.nested)
    if (const auto tied = TRY(outer.flag("tie_word_embeddings"))) out.tied_embedding = *tied;
  if (task == HfTask::classify) out.config.labels = read_labels(outer);
  if (const auto quantization = TRY(outer.object("quantization_config"))) {
    const auto method = TRY(quantization->text("quant_method"));
    if (!method || method->empty()) return quantization->bad("quant_method", "is missing");
    out.quantization = *method;
  }
  if (out.nested) TRY(read_tokens(fields, out));
  TRY(read_tokens(outer, out));
  if (generation.empty()) return out;
  const FieldsFile advice = TRY(FieldsFile::read(generation, fmt::format("{}/generation_config.json", folder)));
  TRY(read_tokens(advice.fields(), out));
  TRY(read_sampling(advice.fields(), out.sampling));
  return out;
}

Result<HfConfig> open_hf_config(const std::string& folder) {
  const auto text_of = [](const MappedFile& file) {
    return std::string_view(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  const auto config = MappedFile::open(folder + "/config.json");
  if (!config && config.error().code == Code::not_found) return no_config(folder);
  if (!config) return config.error();
  const auto generation = MappedFile::open(folder + "/generation_config.json");
  if (!generation && generation.error().code != Code::not_found) return generation.error();
  return read_hf_config(text_of(*config), generation ? text_of(*generation) : std::string_view(), folder);
}

}  // namespace ashlar::models
