#include "models/tiny_folder_test.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>

#include "base/json_full.h"
#include "kernels/types.h"
#include "models/formats/gguf.h"

namespace ashlar::models {
namespace {

using kernels::Type;

// As the published models' own code names them.
std::string their_name(const std::string& architecture, std::string name) {
  static const std::map<std::string, std::string> kCommon{
      {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
      {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
      {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
      {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"},       {"attn_qkv", "self_attn.qkv_proj"}};
  static const std::map<std::string, std::map<std::string, std::string>> kOwn{
      {"olmo2", {{"post_attention_norm", "post_attention_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"}}},
      {"gemma2",
       {{"post_attention_norm", "post_attention_layernorm"},
        {"ffn_norm", "pre_feedforward_layernorm"},
        {"post_ffw_norm", "post_feedforward_layernorm"}}},
      {"gemma3",
       {{"post_attention_norm", "post_attention_layernorm"},
        {"ffn_norm", "pre_feedforward_layernorm"},
        {"post_ffw_norm", "post_feedforward_layernorm"}}},
      {"phi3", {{"ffn_up", "mlp.gate_up_proj"}}},
      {"glm4",
       {{"post_attention_norm", "post_self_attn_layernorm"},
        {"post_ffw_norm", "post_mlp_layernorm"},
        {"ffn_up", "mlp.gate_up_proj"}}}};
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  if (!name.starts_with("blk.")) return "";
  const std::size_t dot = name.find('.', 4), last = name.rfind('.');
  const std::string part = name.substr(dot + 1, last - dot - 1);
  const auto own = kOwn.find(architecture);
  const bool mine = own != kOwn.end() && own->second.contains(part);
  return "model.layers." + name.substr(4, dot - 4) + "." + (mine ? own->second.at(part) : kCommon.at(part)) +
         name.substr(last);
}

std::string name_of(Type type) { return type == Type::f32 ? "F32" : type == Type::f16 ? "F16" : "BF16"; }

std::vector<std::byte> plus(std::span<const std::byte> bytes, float number) {
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  for (std::size_t at = 0; at < out.size(); at += 4) {
    float value;
    std::memcpy(&value, out.data() + at, 4);
    value += number;
    std::memcpy(out.data() + at, &value, 4);
  }
  return out;
}

Json numbers(const gguf::Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

Json rope_json(const TinySpec& s) {
  if (s.rope_scaling.empty()) return nullptr;
  return {{"rope_type", s.rope_scaling},
          {"factor", s.rope_factor},
          {"original_max_position_embeddings", s.original_context}};
}

Json config_json(const TinySpec& s, const TinyFolderOptions& options) {
  const bool three = s.architecture == "olmo2" && s.window > 0;
  const std::map<std::string, std::pair<std::string, std::string>> kinds{
      {"llama", {"llama", "LlamaForCausalLM"}},    {"qwen2", {"qwen2", "Qwen2ForCausalLM"}},
      {"qwen3", {"qwen3", "Qwen3ForCausalLM"}},    {"granite", {"granite", "GraniteForCausalLM"}},
      {"olmo2", {"olmo2", "Olmo2ForCausalLM"}},    {"phi3", {"phi3", "Phi3ForCausalLM"}},
      {"gemma2", {"gemma2", "Gemma2ForCausalLM"}}, {"gemma3", {"gemma3_text", "Gemma3ForCausalLM"}},
      {"glm4", {"glm4", "Glm4ForCausalLM"}}};
  const auto [type, name] =
      three ? std::pair<std::string, std::string>("olmo3", "Olmo3ForCausalLM") : kinds.at(s.architecture);
  Json c = {{"model_type", type},
            {"architectures", Json::array({name})},
            {"num_hidden_layers", s.layers},
            {"hidden_size", s.width},
            {"intermediate_size", s.hidden},
            {"num_attention_heads", s.heads},
            {"num_key_value_heads", s.kv_heads},
            {"head_dim", s.head_dim},
            {"vocab_size", s.vocabulary},
            {"max_position_embeddings", s.context},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", s.rope_base},
            {"tie_word_embeddings", s.tied},
            {"eos_token_id", 3},
            {"bos_token_id", 1}};
  if (s.window > 0) c["sliding_window"] = s.window;
  if (s.rope_dims != s.head_dim) c["partial_rotary_factor"] = static_cast<double>(s.rope_dims) / s.head_dim;
  if (!s.rope_scaling.empty()) c["rope_scaling"] = rope_json(s);
  if (s.architecture == "granite") {
    c["embedding_multiplier"] = s.embedding_scale;
    c["residual_multiplier"] = s.residual_scale;
    c["logits_scaling"] = s.logit_divisor;
    c["attention_multiplier"] = s.attention_scale;
  }
  if (s.architecture.starts_with("gemma")) {
    c["hidden_activation"] = "gelu_pytorch_tanh";
    c["query_pre_attn_scalar"] = s.attention_scale > 0 ? 1 / (s.attention_scale * s.attention_scale) : s.head_dim;
    Json types = Json::array();
    for (int i = 0; i < s.layers; ++i)
      types.push_back((i + 1) % s.full_every == 0 ? "full_attention" : "sliding_attention");
    c["layer_types"] = types;
  }
  if (s.architecture == "gemma2") {
    c["attn_logit_softcapping"] = s.attention_cap;
    c["final_logit_softcapping"] = s.logit_cap;
  }
  if (s.architecture == "gemma3") c["rope_local_base_freq"] = s.window_rope_base;
  if (s.architecture == "glm4") c["attention_bias"] = s.qkv_bias;
  if (options.new_rope) {
    Json full = rope_json(s).is_null() ? Json{{"rope_type", "default"}} : rope_json(s);
    full["rope_theta"] = s.rope_base;
    if (c.contains("partial_rotary_factor")) full["partial_rotary_factor"] = c["partial_rotary_factor"];
    for (const char* old : {"rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq"})
      c.erase(old);
    c["rope_parameters"] = full;
    if (s.window_rope_base > 0)
      c["rope_parameters"] = {{"full_attention", full},
                              {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", s.window_rope_base}}}};
  }
  if (!options.wrapped) return c;
  c.erase("architectures");
  return {{"model_type", "gemma3"},
          {"architectures", Json::array({"Gemma3ForConditionalGeneration"})},
          {"text_config", c},
          {"vision_config", Json::object()},
          {"eos_token_id", Json::array({3, 5})},
          {"tie_word_embeddings", s.tied}};
}

void write(const std::filesystem::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace

std::vector<std::byte> unwoven(std::span<const std::byte> bytes, std::size_t rows, std::size_t head_rows) {
  std::vector<std::byte> out(bytes.size());
  const std::size_t row = bytes.size() / rows;
  for (std::size_t head = 0; head < rows; head += head_rows)
    for (std::size_t pair = 0; pair < head_rows / 2; ++pair) {
      std::memcpy(out.data() + (head + pair) * row, bytes.data() + (head + 2 * pair) * row, row);
      std::memcpy(out.data() + (head + pair + head_rows / 2) * row, bytes.data() + (head + 2 * pair + 1) * row, row);
    }
  return out;
}

void write_safetensors(const std::filesystem::path& path, const std::vector<PlainTensor>& tensors) {
  Json header = Json::object();
  std::string data;
  for (const PlainTensor& tensor : tensors) {
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    header[tensor.name] = {{"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = dump_json(header);
  const std::uint64_t size = text.size();
  std::string file(reinterpret_cast<const char*>(&size), 8);
  write(path, file + text + data);
}

void write_tiny_folder(const TinyModel& model, const std::filesystem::path& folder, const TinyFolderOptions& options) {
  const TinySpec& s = model.spec();
  std::filesystem::create_directories(folder);
  const std::string gguf = model.writer().bytes().value();
  const auto* begin = reinterpret_cast<const std::byte*>(gguf.data());
  const auto file = gguf::File::in_memory({begin, begin + gguf.size()}, "tiny").value();
  std::vector<PlainTensor> tensors;
  for (const gguf::Tensor& tensor : file.tensors()) {
    PlainTensor plain{.name = their_name(s.architecture, std::string(tensor.name)), .type = name_of(tensor.type)};
    if (plain.name.empty()) continue;
    for (int d = tensor.rank; d-- > 0;) plain.shape.push_back(tensor.dims[static_cast<std::size_t>(d)]);
    plain.bytes.assign(tensor.data.begin(), tensor.data.end());
    const bool woven = s.architecture == "llama" || s.architecture == "granite";
    const bool turned =
        tensor.name.find(".attn_q.") != tensor.name.npos || tensor.name.find(".attn_k.") != tensor.name.npos;
    if (woven && turned)
      plain.bytes =
          unwoven(tensor.data, static_cast<std::size_t>(plain.shape[0]), static_cast<std::size_t>(s.head_dim));
    if (s.architecture.starts_with("gemma") && tensor.name.ends_with("norm.weight"))
      plain.bytes = plus(tensor.data, -1);
    if (options.wrapped) plain.name = "language_" + std::string("model.") + plain.name;
    if (options.name) plain.name = options.name(plain.name);
    if (!plain.name.empty()) tensors.push_back(std::move(plain));
  }
  if (options.wrapped) tensors.push_back({"vision_tower.eye.weight", "F32", {2}, std::vector<std::byte>(8)});
  if (options.sharded) {
    const auto half = tensors.begin() + static_cast<std::ptrdiff_t>(tensors.size() / 2);
    const std::vector<std::vector<PlainTensor>> shards{{tensors.begin(), half}, {half, tensors.end()}};
    Json map = Json::object();
    for (std::size_t i = 0; i < 2; ++i) {
      const std::string name = "model-0000" + std::to_string(i + 1) + "-of-00002.safetensors";
      write_safetensors(folder / name, shards[i]);
      for (const PlainTensor& tensor : shards[i]) map[tensor.name] = name;
    }
    write(folder / "model.safetensors.index.json", dump_json({{"weight_map", map}}));
  } else {
    write_safetensors(folder / "model.safetensors", tensors);
  }
  Json config = config_json(s, options);
  if (s.long_rope)
    config["rope_scaling"] = {{"type", "longrope"},
                              {"long_factor", numbers(*file.find_tensor("rope_factors_long.weight"))},
                              {"short_factor", numbers(*file.find_tensor("rope_factors_short.weight"))},
                              {"original_max_position_embeddings", s.original_context},
                              {"attention_factor", s.rope_length}};
  if (!options.config.empty()) config.update(parse_json(options.config).value());
  write(folder / "config.json", dump_json(config));
  if (!options.generation.empty()) write(folder / "generation_config.json", options.generation);
  Json vocabulary = Json::object();
  for (int i = 0; i < s.vocabulary; ++i) vocabulary["t" + std::to_string(i)] = i;
  write(folder / "vocab.json", dump_json(vocabulary));
  write(folder / "merges.txt", "#version: 0.2\n");
  write(folder / "tokenizer_config.json",
        R"({"tokenizer_class": "GPT2Tokenizer", "eos_token": "t3", "bos_token": "t1"})");
}

}  // namespace ashlar::models
