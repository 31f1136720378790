#include "models/config.h"

#include <cmath>
#include <vector>

namespace ashlar::models {
namespace {

Status read_attention(const Keys& keys, Shape& s) {
  s.heads = TRY(keys.size("attention.head_count", kMostHeads));
  s.kv_heads = TRY(keys.size("attention.head_count_kv", kMostHeads, s.heads));
  if (s.heads % s.kv_heads != 0)
    return keys.bad("attention.head_count_kv",
                    fmt::format("is {}, which does not divide {} heads", s.kv_heads, s.heads));
  if (s.width % s.heads != 0 && keys.file().find(s.architecture + ".attention.key_length") == nullptr)
    return keys.bad("attention.head_count", fmt::format("is {}, which does not divide the width {}", s.heads, s.width));
  s.head_dim = TRY(keys.size("attention.key_length", kMostHeadDim, s.width / s.heads));
  const int value_length = TRY(keys.size("attention.value_length", kMostHeadDim, s.head_dim));
  if (value_length != s.head_dim)
    return keys.bad("attention.value_length",
                    fmt::format("is {}; only {}, the length of the keys, is supported", value_length, s.head_dim),
                    Code::unsupported);
  if (s.head_dim % 8 != 0 || s.head_dim > kMostHeadDim)
    return keys.bad("attention.key_length",
                    fmt::format("makes heads of {}; multiples of 8 up to {} are supported", s.head_dim, kMostHeadDim),
                    Code::unsupported);
  s.sliding_window = TRY(keys.get<std::int32_t>("attention.sliding_window", 0));
  if (s.sliding_window < 0) return keys.bad("attention.sliding_window", "is negative");
  return {};
}

Status read_rope(const Keys& keys, const Shape& s, RopeConfig& r) {
  r.base = TRY(keys.positive("rope.freq_base", 10000.0));
  if (r.base <= 1) return keys.bad("rope.freq_base", fmt::format("is {}; more than 1 is expected", r.base));
  r.dims = TRY(keys.size("rope.dimension_count", kMostHeadDim, s.head_dim));
  if (r.dims % 2 != 0 || r.dims > s.head_dim)
    return keys.bad("rope.dimension_count",
                    fmt::format("is {}; an even number up to the head's {} is expected", r.dims, s.head_dim));
  // Older writers gave a linear factor alone.
  const double old_factor = TRY(keys.get<double>("rope.scale_linear", 0.0));
  r.factor = TRY(keys.get<double>("rope.scaling.factor", old_factor));
  const auto type = TRY(keys.get<std::string_view>("rope.scaling.type", r.factor > 0 ? "linear" : "none"));
  if (r.factor == 0) r.factor = 1;
  if (!std::isfinite(r.factor) || r.factor <= 0) return keys.bad("rope.scaling.factor", fmt::format("is {}", r.factor));
  if (type == "none") return {};
  if (type == "linear") {
    r.scaling = RopeConfig::Scaling::linear;
    return {};
  }
  if (type != "yarn")
    return keys.bad("rope.scaling.type", fmt::format("is {}; none, linear and yarn are supported", gguf::quoted(type)),
                    Code::unsupported);
  r.scaling = RopeConfig::Scaling::yarn;
  r.original_context = TRY(keys.size("rope.scaling.original_context_length", kMostContext, s.context));
  const double yarn_factor = TRY(keys.positive("rope.scaling.yarn_attn_factor", 1.0));
  r.attention_factor = TRY(keys.positive("rope.scaling.attn_factor", yarn_factor));
  r.extrapolation = TRY(keys.get<double>("rope.scaling.yarn_ext_factor", 1.0));
  r.beta_fast = TRY(keys.positive("rope.scaling.yarn_beta_fast", 32.0));
  r.beta_slow = TRY(keys.positive("rope.scaling.yarn_beta_slow", 1.0));
  if (!(r.extrapolation >= 0 && r.extrapolation <= 1))
    return keys.bad("rope.scaling.yarn_ext_factor", "is not between 0 and 1");
  return {};
}

}  // namespace

Result<int> Keys::size(std::string_view key, int most, std::optional<int> otherwise) const {
  const auto found = TRY(file_.maybe<std::int64_t>(full(key)));
  if (!found && otherwise) return *otherwise;
  if (!found) return bad(key, "is missing");
  if (*found < 1 || *found > most) return bad(key, fmt::format("is {}; 1 to {} are possible", *found, most));
  return static_cast<int>(*found);
}

Result<double> Keys::positive(std::string_view key, std::optional<double> otherwise) const {
  const auto found = TRY(file_.maybe<double>(full(key)));
  if (!found && otherwise) return *otherwise;
  if (!found) return bad(key, "is missing");
  if (!std::isfinite(*found) || *found <= 0)
    return bad(key, fmt::format("is {}; a finite number above 0 is expected", *found));
  return *found;
}

Result<int> Keys::pattern(int otherwise) const {
  constexpr std::string_view kKey = "attention.sliding_window_pattern";
  const gguf::Value* list = file_.find(full(kKey));
  if (list == nullptr || list->type != gguf::ValueType::array) return size(kKey, kMostPattern, otherwise);
  std::vector<bool> windowed;
  gguf::Value element;
  for (gguf::Elements elements(*list); windowed.size() < kMostLayers && elements.next(element);) {
    const auto flag = element.boolean();
    if (!flag) return bad(kKey, "is a list of what is not true or false");
    windowed.push_back(*flag);
  }
  for (int every = 1; every <= static_cast<int>(windowed.size()) + 1; ++every) {
    std::size_t i = 0;
    while (i < windowed.size() && windowed[i] == ((static_cast<int>(i) + 1) % every != 0)) ++i;
    if (i == windowed.size()) return every;
  }
  return bad(kKey, "keeps no order that is supported: every so manieth layer may see all positions", Code::unsupported);
}

Error Keys::bad(std::string_view key, std::string_view what, Code code) const {
  return Error{code, fmt::format("{}: key '{}' {}", file_.path(), full(key), what)};
}

Result<Config> read_config(const Keys& keys) {
  Config c;
  Shape& s = c.shape;
  s.architecture = keys.architecture();
  s.layers = TRY(keys.size("block_count", kMostLayers));
  s.width = TRY(keys.size("embedding_length", kMostWidth));
  s.hidden = TRY(keys.size("feed_forward_length", kMostHidden));
  s.context = TRY(keys.size("context_length", kMostContext));
  const auto experts = TRY(keys.get<std::int32_t>("expert_count", 0));
  if (experts != 0)
    return keys.bad("expert_count", fmt::format("is {}; mixtures of experts are not supported", experts),
                    Code::unsupported);
  TRY(read_attention(keys, s));
  TRY(read_rope(keys, s, c.rope));
  c.attention_scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
  c.rms_epsilon = static_cast<float>(TRY(keys.positive("attention.layer_norm_rms_epsilon")));
  return c;
}

}  // namespace ashlar::models
