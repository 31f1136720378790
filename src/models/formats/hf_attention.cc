#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "models/formats/gguf.h"
#include "models/formats/hf_config_parts.h"

namespace ashlar::models {
namespace {

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
  // Of `every` layers the last sees all, and so do those before `first`.
  int every = family.full_every > 0 ? family.full_every : s.layers + 1, first = 0;
  if (family.architecture == "gemma3") {
    const int old = TRY(fields.size("sliding_window_pattern", kMostPattern, every));
    every = TRY(fields.size("_sliding_window_pattern", kMostPattern, old));
  }
  if (family.window_switch)
    first = TRY(fields.whole("max_window_layers", 0, std::numeric_limits<int>::max())).value_or(28);
  for (int i = 0; i < s.layers; ++i) windowed[static_cast<std::size_t>(i)] = i >= first && (i + 1) % every != 0;
  return windowed;
}

// The architectures whose layers take turns say so by the distance between those that see all positions.
Status set_pattern(const Fields& fields, const Family& family, const std::vector<bool>& windowed, Shape& s) {
  const auto follows = [&](int every) {
    for (std::size_t i = 0; i < windowed.size(); ++i)
      if (windowed[i] != ((static_cast<int>(i) + 1) % every != 0)) return false;
    return true;
  };
  if (follows(family.full_every)) {
    s.full_every = family.full_every;
    return {};
  }
  for (s.full_every = 1; s.full_every <= s.layers + 1; ++s.full_every)
    if (follows(s.full_every)) return {};
  return fields.bad("layer_types", "has windows in an order that is not supported; every so manieth layer may see all",
                    Code::unsupported);
}

Status read_window(const Fields& fields, const Family& family, Shape& s) {
  if (family.sliding_window == 0 && family.model_type != "phi3") return {};
  if (family.window_switch && !TRY(fields.flag("use_sliding_window")).value_or(false)) return {};
  // Here null is an answer: no window.
  const int absent = fields.contains("sliding_window") ? 0 : family.sliding_window;
  const int window = TRY(fields.whole("sliding_window", 1, kMostContext)).value_or(absent);
  if (window == 0 && s.architecture.starts_with("gemma"))
    return fields.bad("sliding_window", "is null, which is not supported", Code::unsupported);
  if (window == 0) return {};
  const std::vector<bool> layers = TRY(windowed_layers(fields, family, s));
  const auto windowed = std::ranges::count(layers, true);
  if (family.full_every > 0) {
    s.sliding_window = window;
    return set_pattern(fields, family, layers, s);
  }
  if (windowed != 0 && windowed != s.layers)
    return fields.bad("sliding_window",
                      fmt::format("holds for {} of {} layers; all or none are supported", windowed, s.layers),
                      Code::unsupported);
  if (windowed != 0) s.sliding_window = window;
  return {};
}

}  // namespace

Status read_attention(const Fields& fields, const Family& family, Config& config) {
  TRY(family.architecture == "deepseek2" ? read_latent(fields, config) : read_heads(fields, family, config.shape));
  return read_window(fields, family, config.shape);
}

}  // namespace ashlar::models
