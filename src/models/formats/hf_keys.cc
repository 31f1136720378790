#include "models/formats/hf_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

namespace ashlar::models {
namespace {

// What each architecture's windows repeat after, where no key says otherwise.
int usual_pattern(std::string_view architecture) {
  return architecture == "gemma3"                                ? 6
         : architecture == "olmo2"                               ? 4
         : architecture == "gemma2" || architecture == "gpt-oss" ? 2
                                                                 : 0;
}

class ConfigKeys {
 public:
  ConfigKeys(const HfConfig& hf, gguf::Writer& writer) : hf_(hf), c_(hf.config), s_(c_.shape), writer_(writer) {}

  void add() {
    sizes();
    attention();
    rope();
    factors();
    if (c_.experts.count > 0) experts();
  }

 private:
  std::string full(std::string_view key) const { return fmt::format("{}.{}", s_.architecture, key); }
  void number(std::string_view key, int value) { writer_.add(full(key), static_cast<std::uint32_t>(value)); }
  void real(std::string_view key, double value) { writer_.add(full(key), static_cast<float>(value)); }

  void sizes() {
    number("vocab_size", s_.vocabulary);
    number("context_length", s_.context);
    number("embedding_length", s_.width);
    number("block_count", s_.layers);
    number("feed_forward_length", s_.hidden);
  }

  void attention() {
    number("attention.head_count", s_.heads);
    number("attention.head_count_kv", s_.kv_heads);
    number("attention.key_length", s_.head_dim);
    number("attention.value_length", c_.latent.rank > 0 ? c_.latent.value_dim : s_.head_dim);
    if (c_.latent.rank > 0) number("attention.kv_lora_rank", c_.latent.rank);
    if (c_.latent.query_rank > 0) number("attention.q_lora_rank", c_.latent.query_rank);
    if (s_.sliding_window > 0) number("attention.sliding_window", s_.sliding_window);
    if (s_.sliding_window > 0 && s_.full_every != usual_pattern(s_.architecture))
      number("attention.sliding_window_pattern", s_.full_every);
    real("attention.layer_norm_rms_epsilon", static_cast<double>(c_.rms_epsilon));
    if (c_.attention_scale > 0) real("attention.scale", static_cast<double>(c_.attention_scale));
    if (c_.attention_cap > 0) real("attn_logit_softcapping", static_cast<double>(c_.attention_cap));
    if (c_.logit_cap > 0) real("final_logit_softcapping", static_cast<double>(c_.logit_cap));
  }

  void rope() {
    const RopeConfig& r = c_.rope;
    number("rope.dimension_count", r.dims);
    real("rope.freq_base", r.base);
    if (c_.window_rope && s_.architecture == "gemma3") real("rope.freq_base_swa", c_.window_rope->base);
    if (!hf_.long_factors.empty()) {
      number("rope.scaling.original_context_length", static_cast<int>(r.original_context));
      real("rope.scaling.attn_factor", r.attention_factor);
    }
    if (r.scaling == RopeConfig::Scaling::none) return;
    const bool yarn = r.scaling == RopeConfig::Scaling::yarn;
    writer_.add(full("rope.scaling.type"), yarn ? "yarn" : "linear");
    real("rope.scaling.factor", r.factor);
    if (!yarn) return;
    number("rope.scaling.original_context_length", static_cast<int>(r.original_context));
    real("rope.scaling.attn_factor", r.attention_factor);
    real("rope.scaling.yarn_ext_factor", r.extrapolation);
    real("rope.scaling.yarn_beta_fast", r.beta_fast);
    real("rope.scaling.yarn_beta_slow", r.beta_slow);
    if (hf_.yarn_log_multiplier > 0) real("rope.scaling.yarn_log_multiplier", hf_.yarn_log_multiplier);
  }

  void experts() {
    const ExpertsConfig& e = c_.experts;
    number("expert_count", e.count);
    number("expert_used_count", e.used);
    number("expert_feed_forward_length", e.hidden);
    if (s_.architecture == "gpt-oss") return;
    writer_.add(full("expert_weights_norm"), e.normalize);
    if (s_.architecture == "qwen2moe") number("expert_shared_feed_forward_length", e.shared_hidden);
    if (s_.architecture != "deepseek2") return;
    number("leading_dense_block_count", e.first_layer);
    number("expert_shared_count", e.shared_hidden / e.hidden);
    number("expert_gating_func", static_cast<int>(e.scores) + 1);
    real("expert_weights_scale", static_cast<double>(e.scale));
    if (e.groups == 1) return;
    number("expert_group_count", e.groups);
    number("expert_group_used_count", e.groups_used);
  }

  void factors() {
    if (s_.architecture != "granite") return;
    real("embedding_scale", static_cast<double>(c_.embedding_scale));
    real("residual_scale", static_cast<double>(c_.residual_scale));
    real("logit_scale", 1 / static_cast<double>(c_.logit_scale));
  }

  const HfConfig& hf_;
  const Config& c_;
  const Shape& s_;
  gguf::Writer& writer_;
};

// As llama.cpp's converter names the advice of generation_config.json.
void add_sampling(const SamplingAdvice& advice, gguf::Writer& writer) {
  const auto real = [&](std::string_view key, std::optional<double> value) {
    if (value) writer.add(fmt::format("general.sampling.{}", key), static_cast<float>(*value));
  };
  real("temp", advice.temperature);
  real("top_p", advice.top_p);
  real("min_p", advice.min_p);
  real("penalty_repeat", advice.repetition_penalty);
  if (advice.top_k) writer.add("general.sampling.top_k", static_cast<std::int32_t>(*advice.top_k));
}

}  // namespace

void add_config_keys(const HfConfig& hf, std::optional<std::uint32_t> file_type, const std::string& folder,
                     gguf::Writer& writer) {
  writer.add("general.architecture", hf.config.shape.architecture);
  auto path = std::filesystem::absolute(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // "folder/"
  writer.add("general.name", path.filename().string());
  if (file_type) writer.add("general.file_type", *file_type);
  add_sampling(hf.sampling, writer);
  ConfigKeys(hf, writer).add();
  if (!hf.eos.empty()) writer.add(kEndsKey, std::span<const std::int32_t>(hf.eos));
}

void add_vocabulary_keys(const FolderText& text, int rows, gguf::Writer& writer) {
  const text::Vocabulary& v = text.vocabulary;
  std::vector<std::string> tokens = v.tokens;
  std::vector<std::int32_t> types;
  for (const text::TokenType type : v.types) types.push_back(static_cast<std::int32_t>(type));
  const auto size = rows > 0 ? static_cast<std::size_t>(rows) : tokens.size();
  if (tokens.size() > size) tokens.resize(size);
  types.resize(tokens.size(), static_cast<std::int32_t>(text::TokenType::normal));
  // The embedding may have more rows than there are tokens.
  while (tokens.size() < size) {
    tokens.push_back(fmt::format("[PAD{}]", tokens.size()));
    types.push_back(static_cast<std::int32_t>(text::TokenType::unused));
  }
  writer.add("tokenizer.ggml.model", v.model);
  if (!v.pre.empty()) writer.add("tokenizer.ggml.pre", v.pre);
  writer.add("tokenizer.ggml.tokens", tokens);
  writer.add("tokenizer.ggml.token_type", std::span<const std::int32_t>(types));
  if (!v.scores.empty()) {
    std::vector<float> scores = v.scores;
    scores.resize(tokens.size(), 0.0f);
    writer.add("tokenizer.ggml.scores", std::span<const float>(scores));
  }
  if (!v.merges.empty()) writer.add("tokenizer.ggml.merges", v.merges);
  const struct {
    std::string_view key;
    text::TokenId id;
  } ids[] = {{"bos", v.bos}, {"eos", v.eos},   {"unknown", v.unknown},    {"padding", v.padding},
             {"cls", v.cls}, {"mask", v.mask}, {"seperator", v.separator}};  // GGUF's own spelling
  for (const auto& [key, id] : ids)
    if (id >= 0 && static_cast<std::size_t>(id) < tokens.size())
      writer.add(fmt::format("tokenizer.ggml.{}_token_id", key), static_cast<std::uint32_t>(id));
  writer.add("tokenizer.ggml.add_bos_token", v.add_bos);
  writer.add("tokenizer.ggml.add_eos_token", v.add_eos);
  writer.add("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
  if (v.prefix_once) writer.add(kPrefixOnceKey, true);
  if (v.ignore_merges) writer.add(kIgnoreMergesKey, *v.ignore_merges);
  if (v.compose) writer.add(kComposeKey, true);
  if (v.lower_case) writer.add(kLowerCaseKey, *v.lower_case);
  if (v.strip_accents) writer.add(kStripAccentsKey, *v.strip_accents);
  if (v.remove_extra_whitespaces) writer.add("tokenizer.ggml.remove_extra_whitespaces", true);
  if (!v.precompiled_charsmap.empty()) {
    const auto* bytes = reinterpret_cast<const std::byte*>(v.precompiled_charsmap.data());
    gguf::Value list{.type = gguf::ValueType::array, .element_type = gguf::ValueType::u8};
    list.count = v.precompiled_charsmap.size();
    list.bytes = {bytes, v.precompiled_charsmap.size()};
    writer.add("tokenizer.ggml.precompiled_charsmap", list);
  }
  if (!text.templates.source.empty()) writer.add("tokenizer.chat_template", text.templates.source);
  for (const auto& [name, source] : text.templates.named)
    writer.add(fmt::format("tokenizer.chat_template.{}", name), source);
}

}  // namespace ashlar::models
