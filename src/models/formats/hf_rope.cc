#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "models/formats/gguf.h"
#include "models/formats/hf_config_parts.h"

namespace ashlar::models {
namespace {

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
  const double length = TRY(scaling.number("mscale", 0, 10)).value_or(0);
  const double all = TRY(scaling.number("mscale_all_dim", 0, 10)).value_or(0);
  if (s.architecture == "deepseek2") {
    if ((length == 0 ? 1 : length) != all)
      return scaling.unsupported("mscale", "is not that of mscale_all_dim, which is not supported");
    out.yarn_log_multiplier = 0.1 * all;
  }
  r.whole_pairs = TRY(scaling.flag("truncate")).value_or(true);
  if (r.whole_pairs != (s.architecture != "gpt-oss"))
    return scaling.bad("truncate", fmt::format("is {}, which is not supported", r.whole_pairs), Code::unsupported);
  // Theirs replaces YaRN's own 1 + ln(factor) / 10; ours multiplies it, and latent attention takes it out again.
  const auto scale = [&](double by) { return 1 + 0.1 * by * std::log(r.factor); };
  const bool pair = length > 0 && all > 0 && s.architecture != "deepseek2";
  const double usual = pair ? scale(length) / scale(all) : scale(1);
  r.attention_factor = TRY(scaling.positive("attention_factor", usual)) / scale(1);
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

// The base grows with the text once that is longer than what the model was trained for. No text here is.
Status read_dynamic(const Fields& scaling, Shape& s) {
  if (scaling.find("alpha") != nullptr)
    return scaling.unsupported("alpha", "is not supported; a factor that works beyond the context is");
  s.context = std::min(s.context, TRY(scaling.size("original_max_position_embeddings", kMostContext, s.context)));
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
  if (type == "dynamic") return read_dynamic(scaling, out.config.shape);
  if (type != "linear")
    return scaling.unsupported(
        "rope_type",
        fmt::format("is {}; default, linear, dynamic, llama3, yarn and longrope are supported", gguf::quoted(type)));
  r.scaling = RopeConfig::Scaling::linear;
  r.factor = TRY(scaling.positive("factor"));
  return {};
}

// The part of a head that turns.
Status read_rope_dims(const Fields& fields, const std::optional<Fields>& scaling, const Family& family, const Shape& s,
                      RopeConfig& r) {
  if (s.architecture == "deepseek2") return {};  // known already
  double part = TRY(fields.number("partial_rotary_factor", 0, 1)).value_or(1);
  if (scaling) part = TRY(scaling->number("partial_rotary_factor", 0, 1)).value_or(part);
  if (part != 1 && !family.partial_rotary)
    return fields.unsupported("partial_rotary_factor", "is not 1, which is not supported");
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

}  // namespace

Status read_rope(const Fields& fields, const Family& family, HfConfig& out) {
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
  TRY(read_rope_dims(fields, scaling, family, s, r));
  r.base = TRY(fields.positive("rope_theta", 10000.0));
  if (scaling) r.base = TRY(scaling->positive("rope_theta", r.base));
  if (r.base <= 1) return fields.bad("rope_theta", fmt::format("is {}; more than 1 is expected", r.base));
  if (scaling) TRY(read_scaling(fields, *scaling, out));
  if (s.sliding_window > 0 && s.full_every > 0) return read_window_rope(fields, local, out.config);
  return {};
}

}  // namespace ashlar::models
