#include "models/formats/hf_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>

#include "base/log.h"
#include "kernels/blocks.h"
#include "models/formats/hf_experts.h"

namespace ashlar::models {
namespace {

using kernels::Type;

// What a tensor is called there and here.
struct Name {
  std::string_view theirs, ours;
};

constexpr Name kOutside[] = {{"model.embed_tokens", "token_embd"},
                             {"model.norm", "output_norm"},
                             {"lm_head", "output"},
                             {"score", "cls.output"}};

// Within a layer. What an architecture calls otherwise stands before what is common to them.
constexpr Name kCommon[] = {
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.experts.gate_proj", "ffn_gate_exps"},
    {"mlp.experts.up_proj", "ffn_up_exps"},
    {"mlp.experts.down_proj", "ffn_down_exps"},
};
constexpr Name kMixtral[] = {{"block_sparse_moe.gate", "ffn_gate_inp"},
                             {"block_sparse_moe.experts.w1", "ffn_gate_exps"},
                             {"block_sparse_moe.experts.w3", "ffn_up_exps"},
                             {"block_sparse_moe.experts.w2", "ffn_down_exps"}};
constexpr Name kQwen2Moe[] = {{"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
                              {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                              {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                              {"mlp.shared_expert.down_proj", "ffn_down_shexp"}};
constexpr Name kGptOss[] = {{"post_attention_layernorm", "post_attention_norm"},
                            {"self_attn.sinks", "attn_sinks"},
                            {"mlp.router", "ffn_gate_inp"}};
constexpr Name kDeepseek2[] = {{"self_attn.q_a_proj", "attn_q_a"},
                               {"self_attn.q_a_layernorm", "attn_q_a_norm"},
                               {"self_attn.q_b_proj", "attn_q_b"},
                               {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
                               {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
                               {"self_attn.kv_b_proj", "attn_kv_b"},
                               {"mlp.gate.e_score_correction", "exp_probs_b"},
                               {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
                               {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
                               {"mlp.shared_experts.down_proj", "ffn_down_shexp"}};
constexpr Name kOlmo2[] = {{"post_attention_layernorm", "post_attention_norm"},
                           {"post_feedforward_layernorm", "post_ffw_norm"}};
constexpr Name kGemma[] = {{"post_attention_layernorm", "post_attention_norm"},
                           {"pre_feedforward_layernorm", "ffn_norm"},
                           {"post_feedforward_layernorm", "post_ffw_norm"}};
constexpr Name kPhi3[] = {{"self_attn.qkv_proj", "attn_qkv"}, {"mlp.gate_up_proj", "ffn_up"}};
constexpr Name kGlm4[] = {{"post_self_attn_layernorm", "post_attention_norm"},
                          {"post_mlp_layernorm", "post_ffw_norm"},
                          {"mlp.gate_up_proj", "ffn_up"}};

struct Dialect {
  std::string_view architecture;
  std::span<const Name> names;  // before the common ones
  bool woven = false;           // rows of q and k
  bool norms_less_one = false;
};
constexpr Dialect kDialects[] = {
    {.architecture = "llama", .names = kMixtral, .woven = true},
    {.architecture = "qwen2moe", .names = kQwen2Moe},
    {.architecture = "gpt-oss", .names = kGptOss},
    {.architecture = "deepseek2", .names = kDeepseek2},
    {.architecture = "granite", .names = {}, .woven = true},
    {.architecture = "olmo2", .names = kOlmo2},
    {.architecture = "phi3", .names = kPhi3},
    {.architecture = "gemma2", .names = kGemma, .norms_less_one = true},
    {.architecture = "gemma3", .names = kGemma, .norms_less_one = true},
    {.architecture = "glm4", .names = kGlm4},
};

const Dialect& dialect_of(std::string_view architecture) {
  static constexpr Dialect kPlain{};
  const auto found = std::ranges::find(kDialects, architecture, &Dialect::architecture);
  return found == std::end(kDialects) ? kPlain : *found;
}

// Of a folder that holds a text model and more.
bool is_of_another_tower(std::string_view name) {
  for (const std::string_view tower : {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                                       "model.multi_modal_projector.", "model.visual.", "visual.", "audio_tower.",
                                       "model.audio_tower.", "model.vision_embed_tokens.", "vision_model."})
    if (name.starts_with(tower)) return true;
  return false;
}

std::optional<Type> type_of(safetensors::Type type) {
  switch (type) {
    case safetensors::Type::f32:
      return Type::f32;
    case safetensors::Type::f16:
      return Type::f16;
    case safetensors::Type::bf16:
      return Type::bf16;
    default:
      return std::nullopt;
  }
}

// Its name with the kind of tensor behind the last dot, which some lack.
std::string with_kind(std::string name) {
  if (name.ends_with(".self_attn.sinks")) return name + ".weight";
  constexpr std::string_view kCorrection = ".e_score_correction_bias";
  if (name.ends_with(kCorrection)) name[name.rfind('_')] = '.';
  return name;
}

// Of a layer beyond those that the configuration counts: it predicts further tokens.
bool is_beyond(std::string_view name, const Shape& shape) {
  constexpr std::string_view kLayers = "model.layers.";
  if (shape.architecture != "deepseek2" || !name.starts_with(kLayers)) return false;
  int layer = -1;
  std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
  return layer >= shape.layers;
}

std::string shape_text(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

std::string plain_name(std::string_view name) {
  for (const std::string_view wrapping : {"language_model.", "model.language_model."})
    if (name.starts_with(wrapping)) {
      const std::string_view rest = name.substr(wrapping.size());
      const bool whole = rest.starts_with("model.") || rest.starts_with("lm_head.");
      return whole ? std::string(rest) : fmt::format("model.{}", rest);
    }
  // Saved without its output matrix, as models that embed are.
  for (const std::string_view bare : {"layers.", "embed_tokens.", "norm."})
    if (name.starts_with(bare)) return fmt::format("model.{}", name);
  return std::string(name);
}

std::string gguf_name(std::string_view architecture, std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view kind = name.substr(dot), stem = name.substr(0, dot);
  if (kind != ".weight" && kind != ".bias") return {};
  for (const Name& known : kOutside)
    if (stem == known.theirs) return fmt::format("{}{}", known.ours, kind);
  constexpr std::string_view kLayers = "model.layers.";
  if (!stem.starts_with(kLayers)) return {};
  int layer = -1;
  const char *begin = stem.data() + kLayers.size(), *end = stem.data() + stem.size();
  const auto number = std::from_chars(begin, end, layer);
  if (number.ec != std::errc() || layer < 0 || number.ptr == end || *number.ptr != '.') return {};
  const std::string_view part(number.ptr + 1, end);
  for (const std::span<const Name> names : {dialect_of(architecture).names, std::span<const Name>(kCommon)})
    for (const Name& known : names)
      if (part == known.theirs) return fmt::format("blk.{}.{}{}", layer, known.ours, kind);
  return {};
}

int woven_heads(const Shape& shape, std::string_view name) {
  if (!dialect_of(shape.architecture).woven) return 0;
  if (name.find(".attn_q.") != std::string_view::npos) return shape.heads;
  if (name.find(".attn_k.") != std::string_view::npos) return shape.kv_heads;
  return 0;
}

Result<std::vector<Stored>> stored_tensors(const safetensors::Checkpoint& weights, const HfConfig& config,
                                           RowsFor whom) {
  const bool mxfp4 = config.quantization == "mxfp4";  // of experts alone
  QuantizedCheckpoint quantized;
  if (const auto found = mxfp4 ? std::nullopt : TRY(open_quantization_config(weights.path())))
    quantized = TRY(read_quantized_checkpoint(weights, *found, whom));
  else
    for (const safetensors::Tensor& tensor : weights.tensors()) quantized.plain.push_back(&tensor);
  std::vector<Stored> out;
  int left_out = 0;
  const auto is_left_out = [&](const std::string& name) {
    const bool elsewhere = config.nested && is_of_another_tower(name);
    left_out += elsewhere ? 1 : 0;
    return elsewhere || (config.tied_embedding && plain_name(name) == "lm_head.weight");  // the embedding again
  };
  for (QuantizedMatrix& matrix : quantized.matrices) {
    if (is_left_out(matrix.name) || is_beyond(plain_name(matrix.name), config.config.shape)) continue;
    out.push_back({.name = plain_name(matrix.name),
                   .type = matrix.type,
                   .shape = {matrix.rows, matrix.columns},
                   .from = std::move(matrix.from),
                   .make = std::move(matrix.make),
                   .order = std::move(matrix.order),
                   .kept = std::move(matrix.kept)});
  }
  for (const safetensors::Tensor* plain : quantized.plain) {
    const safetensors::Tensor& tensor = *plain;
    if (is_left_out(tensor.name) || (mxfp4 && is_mxfp4_part(tensor.name))) continue;
    Stored stored{.name = with_kind(plain_name(tensor.name)), .shape = tensor.shape, .from = {&tensor}};
    if (is_beyond(stored.name, config.config.shape)) continue;
    if (stored.name.ends_with(".rotary_emb.inv_freq")) continue;  // old folders stored the frequencies
    if (stored.name.ends_with(".position_ids")) continue;         // and 0, 1, 2, ...
    const auto type = type_of(tensor.type);
    if (!type)
      return Error{Code::unsupported,
                   fmt::format("{}: tensor {} is {}; F32, F16 and BF16 are supported", weights.path(),
                               gguf::quoted(tensor.name), safetensors::name(tensor.type))};
    stored.type = *type;
    out.push_back(std::move(stored));
  }
  if (left_out > 0)
    log::warn("tensors_left_out", {{"folder", weights.path()},
                                   {"tensors", left_out},
                                   {"why", "they see or hear; of this model the text part alone is run"}});
  if (mxfp4) std::ranges::move(TRY(mxfp4_matrices(weights)), std::back_inserter(out));
  if (config.config.experts.count > 0) return stack_experts(std::move(out), weights.path());
  return out;
}

gguf::Tensor Renamed::tensor() const {
  gguf::Tensor out{.name = name, .type = type, .rank = static_cast<int>(stored.shape.size())};
  std::copy(stored.shape.rbegin(), stored.shape.rend(), out.dims.begin());
  out.order = stored.order;
  out.kept = stored.kept.get();
  return out;
}

Status Renamed::make(std::span<std::byte> room) const {
  std::vector<std::byte> made;
  std::span<const std::byte> from;
  if (stored.make) {
    made.resize(kernels::row_bytes(stored.type, tensor().elements()));
    TRY(stored.make(made));
    from = made;
  } else {
    from = stored.from.front()->data;
  }
  const auto rows = static_cast<std::size_t>(stored.shape.size() > 1 || woven_heads > 0 ? stored.shape.front() : 1);
  const auto columns = tensor().elements() / static_cast<std::int64_t>(rows);
  const std::size_t from_bytes = from.size() / rows, to_bytes = room.size() / rows;
  const std::size_t head_rows = woven_heads > 0 ? rows / static_cast<std::size_t>(woven_heads) : 1;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::byte* row = from.data() + from_bytes * (woven_heads > 0 ? row_before_weaving(r, head_rows) : r);
    std::byte* to = room.data() + to_bytes * r;
    if (type == stored.type)
      std::memcpy(to, row, from_bytes);
    else
      kernels::dequantize_row(stored.type, row, reinterpret_cast<float*>(to), columns);
  }
  if (plus == 0) return {};
  for (std::size_t at = 0; at < room.size(); at += sizeof(float)) {
    float value;
    std::memcpy(&value, room.data() + at, sizeof value);
    value += plus;
    std::memcpy(room.data() + at, &value, sizeof value);
  }
  return {};
}

namespace {

// The kept columns' weights in the order of rows that the tensor gets.
std::shared_ptr<const kernels::KeptColumns> woven(const kernels::KeptColumns& kept, const Renamed& tensor) {
  auto out = std::make_shared<kernels::KeptColumns>(kept);
  const auto rows = static_cast<std::size_t>(tensor.stored.shape.front());
  const std::size_t head_rows = rows / static_cast<std::size_t>(tensor.woven_heads);
  for (std::size_t k = 0; k < kept.columns.size(); ++k)
    for (std::size_t r = 0; r < rows; ++r)
      out->weights[k * rows + r] = kept.weights[k * rows + row_before_weaving(r, head_rows)];
  return out;
}

}  // namespace

Result<Renamed> rename(Stored stored, const Shape& shape, std::string_view place) {
  const auto bad = [&](std::string what, Code code) {
    return Error{code, fmt::format("{}: tensor {} {}", place, gguf::quoted(stored.name), what)};
  };
  Renamed out{.name = gguf_name(shape.architecture, stored.name)};
  if (out.name.empty()) return bad("is none that this architecture has", Code::unsupported);
  auto& s = stored.shape;
  if (out.name.ends_with(".ffn_gate_inp_shexp.weight") && s.size() == 2 && s[0] == 1) s.erase(s.begin());
  const bool experts = out.name.find("_exps.") != std::string::npos;
  const bool sized =
      !s.empty() && s.size() <= (experts ? 3 : 2) && std::ranges::all_of(s, [](std::int64_t n) { return n > 0; });
  if (!sized)
    return bad(fmt::format("has the shape {}; a vector or a matrix is expected", shape_text(s)), Code::corrupt);
  const bool vector = s.size() == 1;
  const bool exact = vector || out.name.ends_with(".bias") || out.name.ends_with(".ffn_gate_inp.weight");
  out.type = exact ? Type::f32 : stored.type;  // as other engines want it
  if (vector && out.name.ends_with("norm.weight") && dialect_of(shape.architecture).norms_less_one) out.plus = 1;
  out.woven_heads = woven_heads(shape, out.name);
  const std::int64_t rows = static_cast<std::int64_t>(out.woven_heads) * shape.head_dim;
  if (out.woven_heads > 0 && (s[0] != rows || shape.head_dim % 2 != 0))
    return bad(fmt::format("has the shape {}; config.json says {} rows", shape_text(s), rows), Code::corrupt);
  out.stored = std::move(stored);
  if (out.woven_heads > 0 && out.stored.kept != nullptr) out.stored.kept = woven(*out.stored.kept, out);
  return out;
}

}  // namespace ashlar::models
