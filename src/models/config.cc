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

Status read_reading(const Keys& keys, Config& config) {
  const gguf::File& file = keys.file();
  const std::string pooling_key = keys.architecture() + ".pooling_type";
  const auto number = TRY(file.maybe<std::int64_t>(pooling_key));
  // -1 is how some say that they do not.
  if (number && *number != -1 && *number != 0xFFFFFFFF) {
    config.pooling = pooling_of(*number);
    if (!config.pooling)
      return keys.bad("pooling_type", fmt::format("is {}; 0 to 4 are known", *number), Code::unsupported);
  }
  const gguf::Value* labels = file.find(keys.architecture() + ".classifier.output_labels");
  if (labels == nullptr) return {};
  if (labels->type != gguf::ValueType::array || labels->count > static_cast<std::uint64_t>(kMostLabels))
    return keys.bad("classifier.output_labels", "is not a list of names");
  gguf::Value label;
  for (gguf::Elements elements(*labels); elements.next(label);) {
    if (!label.string()) return keys.bad("classifier.output_labels", "is not a list of names");
    config.labels.emplace_back(*label.string());
  }
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

Error Keys::bad(std::string_view key, std::string_view what, Code code) const {
  return Error{code, fmt::format("{}: key '{}' {}", file_.path(), full(key), what)};
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

Result<Config> read_sizes(const Keys& keys, std::string_view epsilon) {
  Config c;
  Shape& s = c.shape;
  s.architecture = keys.architecture();
  s.layers = TRY(keys.size("block_count", kMostLayers));
  s.width = TRY(keys.size("embedding_length", kMostWidth));
  s.hidden = TRY(keys.size("feed_forward_length", kMostHidden));
  s.context = TRY(keys.size("context_length", kMostContext));
  c.rms_epsilon = static_cast<float>(TRY(keys.positive(epsilon)));
  TRY(read_reading(keys, c));
  return c;
}

Result<ExpertsConfig> read_experts(const Keys& keys, const ExpertsConfig& usual, const Shape& shape) {
  ExpertsConfig e = usual;
  if (TRY(keys.get<std::int64_t>("expert_count", 0)) == 0) return e;
  e.count = TRY(keys.size("expert_count", kMostExperts));
  e.used = TRY(keys.size("expert_used_count", e.count));
  e.hidden = TRY(keys.size("expert_feed_forward_length", kMostHidden, shape.hidden));
  e.normalize = TRY(keys.get<bool>("expert_weights_norm", usual.normalize));
  const double scale = TRY(keys.get<double>("expert_weights_scale", 0.0));
  if (!(std::abs(scale) < 1e6)) return keys.bad("expert_weights_scale", fmt::format("is {}", scale));
  if (scale != 0) e.scale = static_cast<float>(scale);  // 0 stands for none
  const auto scores = TRY(keys.get<std::int64_t>("expert_gating_func", 0));
  if (scores < 0 || scores > 3)
    return keys.bad("expert_gating_func",
                    fmt::format("is {}; 1 (softmax), 2 (sigmoid) and 3 (softmax of the chosen) are supported", scores),
                    Code::unsupported);
  if (scores > 0) e.scores = static_cast<ExpertsConfig::Scores>(scores - 1);
  e.groups = TRY(keys.size("expert_group_count", e.count, 1));
  if (e.count % e.groups != 0)
    return keys.bad("expert_group_count", fmt::format("is {}, which does not divide {} experts", e.groups, e.count));
  e.groups_used = TRY(keys.size("expert_group_used_count", e.groups, e.groups));
  if (e.used > e.groups_used * (e.count / e.groups))
    return keys.bad("expert_used_count", fmt::format("is {}, but {} of {} groups have {} experts", e.used,
                                                     e.groups_used, e.groups, e.groups_used * (e.count / e.groups)));
  return e;
}

namespace {

Status refuse_experts(const Keys& keys) {
  const auto experts = TRY(keys.get<std::int64_t>("expert_count", 0));
  if (experts == 0) return {};
  return keys.bad("expert_count", fmt::format("is {}; experts are not supported here", experts), Code::unsupported);
}

// Attention of the usual kind, and its rope.
Status read_around(const Keys& keys, Config& c) {
  TRY(read_attention(keys, c.shape));
  TRY(read_rope(keys, c.shape, c.rope));
  c.attention_scale = 1 / std::sqrt(static_cast<float>(c.shape.head_dim));
  return {};
}

}  // namespace

Result<Config> read_config(const Keys& keys) {
  TRY(refuse_experts(keys));
  return read_config(keys, {});
}

Result<Config> read_config(const Keys& keys, const ExpertsConfig& usual) {
  Config c = TRY(read_sizes(keys));
  c.experts = TRY(read_experts(keys, usual, c.shape));
  TRY(read_around(keys, c));
  return c;
}

Result<Config> read_encoder_config(const Keys& keys) {
  constexpr int kMostTypes = 256;  // a type is a byte
  TRY(refuse_experts(keys));
  Config c = TRY(read_sizes(keys, "attention.layer_norm_epsilon"));
  TRY(read_around(keys, c));
  if (c.shape.kv_heads != c.shape.heads)
    return keys.bad("attention.head_count_kv", "differs from the number of heads, which is not supported",
                    Code::unsupported);
  if (c.shape.sliding_window > 0)
    return keys.bad("attention.sliding_window", "is not supported in encoders", Code::unsupported);
  EncoderConfig encoder;
  const auto activation = TRY(keys.get<std::string_view>("hidden_activation", "gelu"));
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh")
    encoder.activation = EncoderConfig::Activation::gelu_tanh;
  else if (activation != "gelu" && activation != "silu")
    return keys.bad("hidden_activation",
                    fmt::format("is {}; gelu and gelu_new are supported", gguf::quoted(activation)), Code::unsupported);
  const gguf::Tensor* types = keys.file().find_tensor("token_types.weight");
  if (types != nullptr && types->rows() > kMostTypes)
    return Error{Code::unsupported, fmt::format("{}: tensor 'token_types.weight' is {}; at most {} types are supported",
                                                keys.file().path(), gguf::dims_text(*types), kMostTypes)};
  if (types != nullptr) encoder.token_types = static_cast<int>(types->rows());
  c.encoder = encoder;
  return c;
}

}  // namespace ashlar::models
