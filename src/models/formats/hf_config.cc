#include "models/formats/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "base/json_full.h"
#include "base/mapped_file.h"
#include "models/formats/gguf.h"

namespace ashlar::models {
namespace {

constexpr int kMostVocabulary = 1 << 24;
constexpr std::size_t kMostEnds = 256;
constexpr std::size_t kMaxFileBytes = 1 << 20;
constexpr JsonLimits kLimits{.depth = 16, .members = 1024, .elements = 4096, .unique = true};

// A model type, what computes it, and what its members are where they are absent.
struct Family {
  std::string_view model_type;
  std::string_view class_name;
  std::string_view architecture;
  int head_dim;                    // 0: the width by the heads
  int sliding_window;              // 0: none
  std::string_view defaults = {};  // an object: further members that the library fills in
  bool gelu = false;               // gates the feed-forward, by its approximation with tanh; otherwise silu
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", 0, 0},
    {"mistral", "MistralForCausalLM", "llama", 0, 4096},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", 0, 4096},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", 128, 4096},
    {"granite", "GraniteForCausalLM", "granite", 0, 0},
    {"olmo2", "Olmo2ForCausalLM", "olmo2", 0, 0, R"({"rms_norm_eps":1e-5})"},
    {"olmo3", "Olmo3ForCausalLM", "olmo2", 0, 4096, R"({"rms_norm_eps":1e-5})"},
    {"phi3", "Phi3ForCausalLM", "phi3", 0, 0, R"({"rms_norm_eps":1e-5,"original_max_position_embeddings":4096})"},
    {"gemma2", "Gemma2ForCausalLM", "gemma2", 256, 4096,
     R"({"vocab_size":256000,"hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,
         "num_attention_heads":8,"num_key_value_heads":4,"max_position_embeddings":8192,"tie_word_embeddings":true,
         "query_pre_attn_scalar":256,"attn_logit_softcapping":50,"final_logit_softcapping":30})",
     true},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", 256, 4096,
     R"({"vocab_size":262208,"hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,
         "num_attention_heads":8,"num_key_value_heads":4,"max_position_embeddings":131072,"tie_word_embeddings":true,
         "query_pre_attn_scalar":256,"rope_theta":1e6,"rope_local_base_freq":1e4})",
     true},
    {"mixtral", "MixtralForCausalLM", "llama", 0, 0,
     R"({"rms_norm_eps":1e-5,"rope_theta":1e6,"num_local_experts":8,"num_experts_per_tok":2})"},
    {"qwen2_moe", "Qwen2MoeForCausalLM", "qwen2moe", 0, 4096,
     R"({"num_experts":60,"num_experts_per_tok":4,"moe_intermediate_size":1408,
         "shared_expert_intermediate_size":5632})"},
    {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe", 0, 4096,
     R"({"num_experts":128,"num_experts_per_tok":8,"moe_intermediate_size":768})"},
    {"gpt_oss", "GptOssForCausalLM", "gpt-oss", 64, 128,
     R"({"rms_norm_eps":1e-5,"rope_theta":150000,"num_local_experts":128,"num_experts_per_tok":4})"},
    {"deepseek_v2", "DeepseekV2ForCausalLM", "deepseek2", 0, 0, R"({"scoring_func":"softmax"})"},
    {"deepseek_v3", "DeepseekV3ForCausalLM", "deepseek2", 0, 0,
     R"({"scoring_func":"sigmoid","topk_method":"noaux_tc","norm_topk_prob":true,"routed_scaling_factor":2.5})"},
    {"glm4", "Glm4ForCausalLM", "glm4", 128, 0, R"({"partial_rotary_factor":0.5,"attention_bias":true})"},
};
// Models that see, whose "text_config" is one of those.
constexpr std::string_view kWrappings[] = {"gemma3", "mistral3"};

// The members of one object, by name.
class Fields {
 public:
  // `object` must outlive this. `place`: "folder/config.json"; `prefix`: "rope_scaling.", or nothing.
  Fields(const Json& object, std::string place, std::string prefix = {})
      : object_(&object), place_(std::move(place)), prefix_(std::move(prefix)) {}

  Error bad(std::string_view name, std::string_view what, Code code = Code::corrupt) const {
    return Error{code, fmt::format("{}: \"{}{}\" {}", place_, prefix_, name, what)};
  }

  const std::string& place() const { return place_; }
  bool contains(const char* name) const { return object_->contains(name); }

  // nullptr: absent or null.
  const Json* find(const char* name) const {
    const auto at = object_->find(name);
    return at == object_->end() || at->is_null() ? nullptr : &*at;
  }

  Result<std::optional<bool>> flag(const char* name) const {
    const Json* value = find(name);
    if (value == nullptr) return std::optional<bool>();
    if (!value->is_boolean()) return bad(name, "is not true or false");
    return value->get<bool>();
  }

  Result<std::optional<std::string>> text(const char* name) const {
    const Json* value = find(name);
    if (value == nullptr) return std::optional<std::string>();
    if (!value->is_string()) return bad(name, "is not a string");
    return value->get<std::string>();
  }

  Result<std::optional<int>> whole(const char* name, int least, int most) const {
    const Json* value = find(name);
    if (value == nullptr) return std::optional<int>();
    if (!value->is_number_integer()) return bad(name, "is not a whole number");
    // What is beyond int64 reads as negative or as its largest value.
    const bool huge = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX;
    const std::int64_t number = huge ? INT64_MAX : value->get<std::int64_t>();
    if (number < least || number > most)
      return bad(name, fmt::format("is {}; {} to {} are possible", number, least, most));
    return static_cast<int>(number);
  }

  // A whole number in [1, most] that must be there unless `otherwise` is given.
  Result<int> size(const char* name, int most, std::optional<int> otherwise = std::nullopt) const {
    const auto found = TRY(whole(name, 1, most));
    if (found) return *found;
    if (otherwise) return *otherwise;
    return bad(name, "is missing");
  }

  Result<std::optional<double>> number(const char* name, double least, double most) const {
    const Json* value = find(name);
    if (value == nullptr) return std::optional<double>();
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number >= least && number <= most))
      return bad(name, fmt::format("is not a number from {} to {}", least, most));
    return number;
  }

  // A number above 0 that a float holds, and its inverse too.
  Result<double> positive(const char* name, std::optional<double> otherwise = std::nullopt) const {
    const auto found = TRY(number(name, 1e-30, 1e30));
    if (found) return *found;
    if (otherwise) return *otherwise;
    return bad(name, "is missing");
  }

  // An object's members; empty where it is absent.
  Result<std::optional<Fields>> object(const char* name) const {
    const Json* value = find(name);
    if (value == nullptr) return std::optional<Fields>();
    if (!value->is_object()) return bad(name, "is not an object");
    return Fields(*value, place_, fmt::format("{}{}.", prefix_, name));
  }

 private:
  const Json* object_;
  std::string place_, prefix_;
};

// The family of the model_type; the first of the architectures must be its class.
Result<const Family*> find_family(const Fields& fields) {
  const auto type = TRY(fields.text("model_type"));
  std::string class_name;
  if (const Json* list = fields.find("architectures")) {
    if (!list->is_array() || list->empty() || !list->front().is_string())
      return fields.bad("architectures", "is not a list of names");
    class_name = list->front().get<std::string>();
  }
  if (!type && class_name.empty()) return fields.bad("model_type", "is missing");
  for (const Family& family : kFamilies)
    if ((!type || *type == family.model_type) && (class_name.empty() || class_name == family.class_name))
      return &family;
  std::string supported;
  for (const Family& family : kFamilies)
    supported += fmt::format("{}{}", supported.empty() ? "" : ", ", family.class_name);
  supported += ", BertModel, RobertaModel, XLMRobertaModel, NomicBertModel";
  const std::string offered = class_name.empty() ? *type
                              : type             ? fmt::format("{} ({})", class_name, *type)
                                                 : class_name;
  return Error{Code::unsupported,
               fmt::format("{}: not supported: {}; supported: {}", fields.place(), gguf::quoted(offered), supported)};
}

// DeepSeek's attention.
Status read_latent(const Fields& fields, Config& config) {
  Shape& s = config.shape;
  LatentConfig& c = config.latent;
  s.heads = s.kv_heads = TRY(fields.size("num_attention_heads", kMostHeads));
  c.rank = TRY(fields.size("kv_lora_rank", kMostWidth));
  c.query_rank = TRY(fields.whole("q_lora_rank", 1, kMostWidth)).value_or(0);
  c.own_dims = TRY(fields.size("qk_nope_head_dim", kMostHeadDim));
  config.rope.dims = TRY(fields.size("qk_rope_head_dim", kMostHeadDim));
  c.value_dim = TRY(fields.size("v_head_dim", kMostHeadDim));
  s.head_dim = c.own_dims + config.rope.dims;
  if (s.head_dim % 8 != 0 || s.head_dim > kMostHeadDim || config.rope.dims % 2 != 0 || c.value_dim > s.head_dim)
    return fields.bad("qk_nope_head_dim",
                      fmt::format("makes keys of {}, {} of which turn, and values of {}; keys of a multiple of 8 up to "
                                  "{}, no shorter than values, are supported",
                                  s.head_dim, config.rope.dims, c.value_dim, kMostHeadDim),
                      Code::unsupported);
  if (!TRY(fields.flag("rope_interleave")).value_or(true))
    return fields.bad("rope_interleave", "is false, which is not supported", Code::unsupported);
  return {};
}

Status read_heads(const Fields& fields, const Family& family, Shape& s) {
  s.heads = TRY(fields.size("num_attention_heads", kMostHeads));
  s.kv_heads = TRY(fields.size("num_key_value_heads", kMostHeads, s.heads));
  if (s.heads % s.kv_heads != 0)
    return fields.bad("num_key_value_heads", fmt::format("is {}, which does not divide {} heads", s.kv_heads, s.heads));
  std::optional<int> head_dim = TRY(fields.whole("head_dim", 1, kMostHeadDim));
  if (!head_dim && family.head_dim != 0) head_dim = family.head_dim;
  if (!head_dim && s.width % s.heads != 0)
    return fields.bad("num_attention_heads",
                      fmt::format("is {}, which does not divide the width {}", s.heads, s.width));
  s.head_dim = head_dim.value_or(s.width / s.heads);
  if (s.head_dim % 8 != 0 || s.head_dim > kMostHeadDim)
    return fields.bad("head_dim", fmt::format("is {}; multiples of 8 up to {} are supported", s.head_dim, kMostHeadDim),
                      Code::unsupported);
  return {};
}

// Of each layer, whether it looks only at the window.
Result<std::vector<bool>> windowed_layers(const Fields& fields, const Family& family, const Shape& s) {
  std::vector<bool> windowed(static_cast<std::size_t>(s.layers));
  if (const Json* types = fields.find("layer_types")) {
    if (!types->is_array() || types->size() != windowed.size())
      return fields.bad("layer_types", fmt::format("is not a list of {} layers", s.layers));
    for (std::size_t i = 0; i < windowed.size(); ++i) {
      const Json& type = (*types)[i];
      if (type != "full_attention" && type != "sliding_attention")
        return fields.bad(
            "layer_types",
            fmt::format("has {}; full_attention and sliding_attention are supported", gguf::quoted(dump_json(type))),
            Code::unsupported);
      windowed[i] = type == "sliding_attention";
    }
    return windowed;
  }
  int every = s.layers + 1, first = 0;  // of `every` layers the last sees all, and so do those before `first`
  if (family.architecture == "gemma2" || family.architecture == "gpt-oss") every = 2;
  if (family.model_type == "olmo3") every = 4;
  if (family.architecture == "gemma3") {
    const int old = TRY(fields.size("sliding_window_pattern", kMostPattern, 6));
    every = TRY(fields.size("_sliding_window_pattern", kMostPattern, old));
  }
  if (family.architecture.starts_with("qwen"))
    first = TRY(fields.whole("max_window_layers", 0, std::numeric_limits<int>::max())).value_or(28);
  for (int i = 0; i < s.layers; ++i) windowed[static_cast<std::size_t>(i)] = i >= first && (i + 1) % every != 0;
  return windowed;
}

// The architectures whose layers take turns say so by the distance between those that see all positions.
Status set_pattern(const Fields& fields, const std::vector<bool>& windowed, Shape& s) {
  const auto follows = [&](int every) {
    for (std::size_t i = 0; i < windowed.size(); ++i)
      if (windowed[i] != ((static_cast<int>(i) + 1) % every != 0)) return false;
    return true;
  };
  const int usual = s.architecture == "gemma3" ? 6 : s.architecture == "gemma2" ? 2 : 4;
  if (follows(usual)) {
    s.full_every = usual;
    return {};
  }
  for (s.full_every = 1; s.full_every <= s.layers + 1; ++s.full_every)
    if (follows(s.full_every)) return {};
  return fields.bad("layer_types", "has windows in an order that is not supported; every so manieth layer may see all",
                    Code::unsupported);
}

Status read_window(const Fields& fields, const Family& family, Shape& s) {
  if (family.sliding_window == 0 && family.model_type != "phi3") return {};
  const bool may_be_off = family.architecture.starts_with("qwen");
  if (may_be_off && !TRY(fields.flag("use_sliding_window")).value_or(false)) return {};
  // Here null is an answer: no window.
  const int absent = fields.contains("sliding_window") ? 0 : family.sliding_window;
  const int window = TRY(fields.whole("sliding_window", 1, kMostContext)).value_or(absent);
  const bool take_turns = s.architecture == "gemma2" || s.architecture == "gemma3" || s.architecture == "olmo2" ||
                          s.architecture == "gpt-oss";
  if (window == 0 && s.architecture.starts_with("gemma"))
    return fields.bad("sliding_window", "is null, which is not supported", Code::unsupported);
  if (window == 0) return {};
  const std::vector<bool> layers = TRY(windowed_layers(fields, family, s));
  const auto windowed = std::ranges::count(layers, true);
  if (take_turns) {
    s.sliding_window = window;
    return set_pattern(fields, layers, s);
  }
  if (windowed != 0 && windowed != s.layers)
    return fields.bad("sliding_window",
                      fmt::format("holds for {} of {} layers; all or none are supported", windowed, s.layers),
                      Code::unsupported);
  if (windowed != 0) s.sliding_window = window;
  return {};
}

// Llama 3's divisors of each pair's frequency: fast pairs keep theirs, slow
// ones are divided by the factor, and between them the frequencies are mixed.
Status read_llama3(const Fields& scaling, HfConfig& out) {
  const RopeConfig& r = out.config.rope;
  const double factor = TRY(scaling.positive("factor"));
  const double low = TRY(scaling.positive("low_freq_factor")), high = TRY(scaling.positive("high_freq_factor"));
  if (low >= high) return scaling.bad("high_freq_factor", fmt::format("is not above low_freq_factor, {}", low));
  const double original = TRY(scaling.size("original_max_position_embeddings", kMostContext));
  for (int i = 0; i < r.dims / 2; ++i) {
    const double turns = original * std::pow(r.base, -2.0 * i / r.dims) / (2 * std::numbers::pi);
    const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    out.rope_factors.push_back(static_cast<float>(1 / ((1 - keep) / factor + keep)));
  }
  return {};
}

Status read_yarn(const Fields& scaling, HfConfig& out) {
  Shape& s = out.config.shape;
  RopeConfig& r = out.config.rope;
  r.scaling = RopeConfig::Scaling::yarn;
  r.factor = TRY(scaling.positive("factor"));
  if (r.factor < 1) return scaling.bad("factor", fmt::format("is {}; at least 1 is expected", r.factor));
  r.original_context = TRY(scaling.size("original_max_position_embeddings", kMostContext, s.context));
  r.beta_fast = TRY(scaling.positive("beta_fast", 32.0));
  r.beta_slow = TRY(scaling.positive("beta_slow", 1.0));
  const bool latent = s.architecture == "deepseek2";
  for (const char* name : {"mscale", "mscale_all_dim"})
    if (scaling.find(name) != nullptr && !latent) return scaling.bad(name, "is not supported", Code::unsupported);
  if (latent) {
    const auto length = TRY(scaling.number("mscale", 0, 10)), all = TRY(scaling.number("mscale_all_dim", 0, 10));
    if (length.value_or(1) != all.value_or(0))
      return scaling.bad("mscale", "is not that of mscale_all_dim, which is not supported", Code::unsupported);
    out.yarn_log_multiplier = 0.1 * all.value_or(0);
  }
  r.whole_pairs = TRY(scaling.flag("truncate")).value_or(true);
  if (r.whole_pairs != (s.architecture != "gpt-oss"))
    return scaling.bad("truncate", fmt::format("is {}, which is not supported", r.whole_pairs), Code::unsupported);
  // Theirs replaces YaRN's own 1 + ln(factor) / 10; ours multiplies it.
  const double own = 1 + 0.1 * std::log(r.factor);
  r.attention_factor = TRY(scaling.positive("attention_factor", own)) / own;
  // Publishers leave the trained length in max_position_embeddings.
  if (scaling.find("original_max_position_embeddings") != nullptr)
    s.context = static_cast<int>(
        std::clamp<double>(r.original_context * r.factor, s.context, static_cast<double>(kMostContext)));
  return {};
}

// LongRoPE's divisors of each pair's frequency, for positions up to the original context and for those beyond.
Status read_longrope(const Fields& fields, const Fields& scaling, HfConfig& out) {
  RopeConfig& r = out.config.rope;
  const Shape& s = out.config.shape;
  if (s.architecture != "phi3")
    return scaling.bad("rope_type", "is 'longrope', which only Phi-3 has", Code::unsupported);
  const auto factors = [&](const char* name, std::vector<float>& list) -> Status {
    const Json* value = scaling.find(name);
    if (value == nullptr || !value->is_array() || value->size() != static_cast<std::size_t>(r.dims / 2))
      return scaling.bad(name, fmt::format("is not a list of {} numbers", r.dims / 2));
    for (const Json& one : *value) {
      const double number = one.is_number() ? one.get<double>() : 0;
      if (!(number >= 1e-6 && number <= 1e6)) return scaling.bad(name, "holds what is not a number above 0");
      list.push_back(static_cast<float>(number));
    }
    return {};
  };
  TRY(factors("long_factor", out.long_factors));
  TRY(factors("short_factor", out.short_factors));
  const int original = TRY(fields.size("original_max_position_embeddings", kMostContext, 4096));
  r.original_context = TRY(scaling.size("original_max_position_embeddings", kMostContext, original));
  const double factor = TRY(scaling.positive("factor", s.context / r.original_context));
  const double own = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(r.original_context));
  r.attention_factor = TRY(scaling.positive("attention_factor", own));
  return {};
}

// How a rotary embedding is stretched; `fields` are the model's.
Status read_scaling(const Fields& fields, const Fields& scaling, HfConfig& out) {
  RopeConfig& r = out.config.rope;
  const std::string old_type = TRY(scaling.text("type")).value_or("default");
  const std::string type = TRY(scaling.text("rope_type")).value_or(old_type);
  if (type == "default") return {};
  if (type == "llama3") return read_llama3(scaling, out);
  if (type == "yarn") return read_yarn(scaling, out);
  if (type == "longrope" || type == "su") return read_longrope(fields, scaling, out);
  if (type != "linear")
    return scaling.bad("rope_type",
                       fmt::format("is {}; default, linear, llama3 and yarn are supported", gguf::quoted(type)),
                       Code::unsupported);
  r.scaling = RopeConfig::Scaling::linear;
  r.factor = TRY(scaling.positive("factor"));
  return {};
}

// The part of a head that turns.
Status read_rope_dims(const Fields& fields, const std::optional<Fields>& scaling, const Shape& s, RopeConfig& r) {
  if (s.architecture == "deepseek2") return {};  // known already
  double part = TRY(fields.number("partial_rotary_factor", 0, 1)).value_or(1);
  if (scaling) part = TRY(scaling->number("partial_rotary_factor", 0, 1)).value_or(part);
  if (part != 1 && s.architecture != "phi3" && s.architecture != "glm4")
    return fields.bad("partial_rotary_factor", "is not 1, which is not supported", Code::unsupported);
  r.dims = static_cast<int>(s.head_dim * part);
  if (r.dims < 2 || r.dims % 2 != 0)
    return fields.bad("partial_rotary_factor",
                      fmt::format("turns {} elements of a head; an even number is expected", r.dims));
  return {};
}

// Of layers with a window, where theirs is another. `local`: what newer writers say of it.
Status read_window_rope(const Fields& fields, const std::optional<Fields>& local, Config& config) {
  const RopeConfig& r = config.rope;
  RopeConfig window{.base = r.base, .dims = r.dims, .layout = r.layout};
  if (config.shape.architecture == "gemma3") window.base = TRY(fields.positive("rope_local_base_freq", 10000.0));
  if (local) {
    const double base = TRY(local->positive("rope_theta", window.base));
    if (config.shape.architecture == "olmo2" && base != window.base)
      return local->bad("rope_theta", "is not that of the other layers, which is not supported", Code::unsupported);
    window.base = base;
    if (TRY(local->text("rope_type")).value_or("default") != "default")
      return local->bad("rope_type", "is not 'default', which is not supported", Code::unsupported);
  }
  if (window.base <= 1) return fields.bad("rope_local_base_freq", "is not above 1");
  config.window_rope = window;
  return {};
}

Status read_rope(const Fields& fields, HfConfig& out) {
  Shape& s = out.config.shape;
  RopeConfig& r = out.config.rope;
  r.layout = kernels::RopeLayout::halves;
  // Newer writers keep the base with the scaling, and one of both for each kind of layer.
  const char* member = fields.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  std::optional<Fields> scaling = TRY(fields.object(member)), local;
  if (scaling && scaling->find("full_attention") != nullptr) {
    local = TRY(scaling->object("sliding_attention"));
    scaling = TRY(scaling->object("full_attention"));
  }
  TRY(read_rope_dims(fields, scaling, s, r));
  r.base = TRY(fields.positive("rope_theta", 10000.0));
  if (scaling) r.base = TRY(scaling->positive("rope_theta", r.base));
  if (r.base <= 1) return fields.bad("rope_theta", fmt::format("is {}; more than 1 is expected", r.base));
  if (scaling) TRY(read_scaling(fields, *scaling, out));
  if (s.sliding_window > 0 && s.full_every > 0) return read_window_rope(fields, local, out.config);
  return {};
}

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
    if (TRY(fields.flag(name.data())).value_or(false) &&
        !((family.architecture == "glm4" || family.architecture == "gpt-oss") && name == "attention_bias"))
      return fields.bad(name, "is true, which is not supported", Code::unsupported);
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
  s.top_k = TRY(fields.whole("top_k", 0, std::numeric_limits<int>::max()));
  return {};
}

Result<Json> parse_object(std::string_view text, std::string_view place) {
  auto json = parse_json(text, kLimits);
  if (!json) return Error{Code::corrupt, fmt::format("{}: {}", place, json.error().message)};
  if (!json->is_object()) return Error{Code::corrupt, fmt::format("{}: not a JSON object", place)};
  return std::move(*json);
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
  TRY(s.architecture == "deepseek2" ? read_latent(fields, out.config) : read_heads(fields, family, s));
  TRY(read_window(fields, family, s));
  TRY(read_rope(fields, out));
  TRY(refuse_variants(fields, family));
  TRY(read_factors(fields, out.config));
  TRY(read_experts(fields, family, out.config));
  out.config.rms_epsilon = static_cast<float>(TRY(fields.positive("rms_norm_eps", 1e-6)));
  out.tied_embedding = TRY(fields.flag("tie_word_embeddings")).value_or(false);
  return {};
}

}  // namespace

Result<HfConfig> read_hf_config(std::string_view config, std::string_view generation, std::string_view folder) {
  const std::string place = fmt::format("{}/config.json", folder);
  const Json whole = TRY(parse_object(config, place));
  const Fields outer(whole, place);
  HfConfig out;
  out.nested = TRY(is_wrapping(outer));
  Json json = whole;
  if (out.nested) json = *outer.find("text_config");
  const Fields described(json, place, out.nested ? "text_config." : "");
  const Family& family = *TRY(find_family(described));
  const Json defaults = family.defaults.empty() ? Json::object() : TRY(parse_json(family.defaults));
  for (const auto& [name, value] : defaults.items())
    if (!json.contains(name)) json[name] = value;
  const Fields fields(json, place, out.nested ? "text_config." : "");
  TRY(read_model(fields, family, out));
  if (out.nested)
    if (const auto tied = TRY(outer.flag("tie_word_embeddings"))) out.tied_embedding = *tied;
  if (const auto quantization = TRY(outer.object("quantization_config"))) {
    const auto method = TRY(quantization->text("quant_method"));
    if (!method || method->empty()) return quantization->bad("quant_method", "is missing");
    out.quantization = *method;
  }
  if (out.nested) TRY(read_tokens(fields, out));
  TRY(read_tokens(outer, out));
  if (generation.empty()) return out;

  const std::string advice_place = fmt::format("{}/generation_config.json", folder);
  const Json advice_json = TRY(parse_object(generation, advice_place));
  const Fields advice(advice_json, advice_place);
  TRY(read_tokens(advice, out));
  TRY(read_sampling(advice, out.sampling));
  return out;
}

Result<HfConfig> open_hf_config(const std::string& folder) {
  const auto text_of = [](const MappedFile& file) -> Result<std::string_view> {
    const auto bytes = file.bytes();
    if (bytes.size() > kMaxFileBytes)
      return Error{Code::corrupt,
                   fmt::format("{}: {} bytes; at most {} are expected", file.path(), bytes.size(), kMaxFileBytes)};
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const auto config = TRY(MappedFile::open(folder + "/config.json"));
  const auto generation = MappedFile::open(folder + "/generation_config.json");
  if (!generation && generation.error().code != Code::not_found) return generation.error();
  return read_hf_config(TRY(text_of(config)), generation ? TRY(text_of(*generation)) : std::string_view(), folder);
}

}  // namespace ashlar::models
