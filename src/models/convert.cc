#include "models/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "kernels/blocks.h"
#include "models/architecture.h"
#include "models/formats/gguf_writer.h"
#include "models/formats/hf_config.h"
#include "models/formats/hf_vocabulary.h"
#include "models/formats/safetensors.h"

namespace ashlar::models {
namespace {

using kernels::Type;

constexpr std::uint32_t kFileTypes[] = {0, 1, 32};  // general.file_type of F32, F16, BF16

// What a tensor is called there and here, within a layer ...
constexpr struct {
  std::string_view theirs, ours;
} kLayerNames[] =
    {
        {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
},
  // ... and outside.
    kNames[] = {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};

// "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"; empty: nothing that we know.
std::string our_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view kind = name.substr(dot), stem = name.substr(0, dot);
  if (kind != ".weight" && kind != ".bias") return {};
  for (const auto& known : kNames)
    if (stem == known.theirs) return fmt::format("{}{}", known.ours, kind);
  constexpr std::string_view kLayers = "model.layers.";
  if (!stem.starts_with(kLayers)) return {};
  int layer = -1;
  const char *begin = stem.data() + kLayers.size(), *end = stem.data() + stem.size();
  const auto number = std::from_chars(begin, end, layer);
  if (number.ec != std::errc() || layer < 0 || number.ptr == end || *number.ptr != '.') return {};
  const std::string_view part(number.ptr + 1, end);
  for (const auto& known : kLayerNames)
    if (part == known.theirs) return fmt::format("blk.{}.{}{}", layer, known.ours, kind);
  return {};
}

// The tensor's own type as ours.
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

struct Source {
  const safetensors::Tensor* tensor;
  std::string name;
  Type from, to;
  int interleaved_heads = 0;  // 0: rows stay in their order
  std::uint64_t bytes() const {
    return kernels::row_bytes(to, tensor->shape.back()) *
           static_cast<std::uint64_t>(tensor->elements() / tensor->shape.back());
  }
};

// The Llama family's rope turns pairs of neighbours in GGUF, and halves of a head in these folders: row h + i and
// row h + d/2 + i of a head of d rows become rows h + 2i and h + 2i + 1.
std::size_t row_before(std::size_t row, std::size_t head_rows) {
  const std::size_t head = row / head_rows * head_rows, within = row % head_rows;
  return head + within % 2 * (head_rows / 2) + within / 2;
}

// The tensor as it is written; `buffer` is used where it cannot be as it lies.
std::span<const std::byte> written(const Source& source, std::vector<std::byte>& buffer) {
  const safetensors::Tensor& t = *source.tensor;
  if (source.interleaved_heads == 0 && source.from == source.to) return t.data;
  const auto elements = static_cast<std::size_t>(t.elements());
  const std::size_t rows = source.interleaved_heads > 0 ? static_cast<std::size_t>(t.shape[0]) : 1;
  const std::size_t columns = elements / rows, from_bytes = t.data.size() / rows;
  const std::size_t head_rows =
      source.interleaved_heads > 0 ? rows / static_cast<std::size_t>(source.interleaved_heads) : 1;
  buffer.resize(source.bytes());
  for (std::size_t r = 0; r < rows; ++r) {
    const std::byte* from = t.data.data() + from_bytes * (source.interleaved_heads > 0 ? row_before(r, head_rows) : r);
    std::byte* to = buffer.data() + buffer.size() / rows * r;
    if (source.from == source.to)
      std::memcpy(to, from, from_bytes);
    else
      kernels::dequantize_row(source.from, from, reinterpret_cast<float*>(to), static_cast<std::int64_t>(columns));
  }
  return buffer;
}

Error bad(const safetensors::Checkpoint& weights, const safetensors::Tensor& t, std::string what, Code code) {
  return Error{code, fmt::format("{}: tensor {} {}", weights.path(), gguf::quoted(t.name), what)};
}

Result<Source> plan(const safetensors::Checkpoint& weights, const safetensors::Tensor& t, const Shape& shape) {
  Source source{.tensor = &t, .name = our_name(t.name), .from = Type::f32, .to = Type::f32};
  if (source.name.empty()) return bad(weights, t, "is none that this architecture has", Code::unsupported);
  const auto type = type_of(t.type);
  if (!type)
    return bad(weights, t, fmt::format("is {}; F32, F16 and BF16 can be converted", safetensors::name(t.type)),
               Code::unsupported);
  if (t.shape.empty() || t.shape.size() > 2 || t.elements() == 0)
    return bad(weights, t,
               fmt::format("has the shape {}; a vector or a matrix is expected", safetensors::shape_text(t)),
               Code::corrupt);
  source.from = *type;
  source.to = t.shape.size() == 1 ? Type::f32 : *type;
  const bool query = source.name.find(".attn_q.") != std::string::npos,
             key = source.name.find(".attn_k.") != std::string::npos;
  if (shape.architecture == "llama" && (query || key)) {
    source.interleaved_heads = query ? shape.heads : shape.kv_heads;
    const std::int64_t rows = static_cast<std::int64_t>(source.interleaved_heads) * shape.head_dim;
    if (t.shape[0] != rows || shape.head_dim % 2 != 0)
      return bad(weights, t,
                 fmt::format("has the shape {}; config.json says {} rows", safetensors::shape_text(t), rows),
                 Code::corrupt);
  }
  return source;
}

// The tensors as the file will have them, without their bytes.
class Planned final : public TensorSource {
 public:
  Planned(std::string folder, std::span<const Source> sources, std::size_t rope_factors) : folder_(std::move(folder)) {
    for (const Source& source : sources) {
      const auto& shape = source.tensor->shape;
      gguf::Tensor tensor{.name = source.name, .type = source.to, .rank = static_cast<int>(shape.size())};
      std::copy(shape.rbegin(), shape.rend(), tensor.dims.begin());
      tensors_.push_back(tensor);
    }
    if (rope_factors > 0) {
      tensors_.push_back({.name = "rope_freqs.weight", .type = Type::f32, .rank = 1});
      tensors_.back().dims[0] = static_cast<std::int64_t>(rope_factors);
    }
  }
  const std::string& name() const override { return folder_; }
  std::span<const gguf::Tensor> tensors() const override { return tensors_; }
  const gguf::Tensor* find(std::string_view name) const override {
    const auto found = std::ranges::find(tensors_, name, &gguf::Tensor::name);
    return found == tensors_.end() ? nullptr : &*found;
  }
  Result<std::span<const std::byte>> data(const gguf::Tensor&) override { return std::span<const std::byte>(); }
  void release(const gguf::Tensor&, bool) override {}

 private:
  std::string folder_;
  std::vector<gguf::Tensor> tensors_;
};

// All that the architecture needs is there, with the sizes that config.json says, and nothing else.
Status check(const Config& config, Planned source) {
  const Architecture* architecture = find_architecture(config.shape.architecture);
  CHECK(architecture != nullptr, "read_hf_config() gives architectures that are known");
  Weights weights;
  weights.layers.resize(static_cast<std::size_t>(config.shape.layers));
  TensorList list;
  architecture->list_tensors(config, weights, list);
  return list.check(source);
}

void add_config(const HfConfig& hf, std::uint32_t file_type, const std::string& folder, gguf::Writer& writer) {
  const Config& config = hf.config;
  const Shape& s = config.shape;
  const auto number = [&](std::string_view key, int value) {
    writer.add(fmt::format("{}.{}", s.architecture, key), static_cast<std::uint32_t>(value));
  };
  const auto real = [&](std::string_view key, double value) {
    writer.add(fmt::format("{}.{}", s.architecture, key), static_cast<float>(value));
  };
  writer.add("general.architecture", s.architecture);
  writer.add("general.name", std::filesystem::absolute(folder).lexically_normal().filename().string());
  writer.add("general.file_type", file_type);
  number("vocab_size", s.vocabulary);
  number("context_length", s.context);
  number("embedding_length", s.width);
  number("block_count", s.layers);
  number("feed_forward_length", s.hidden);
  number("attention.head_count", s.heads);
  number("attention.head_count_kv", s.kv_heads);
  number("attention.key_length", s.head_dim);
  number("attention.value_length", s.head_dim);
  if (s.sliding_window > 0) number("attention.sliding_window", s.sliding_window);
  real("attention.layer_norm_rms_epsilon", config.rms_epsilon);
  number("rope.dimension_count", config.rope.dims);
  real("rope.freq_base", config.rope.base);
  if (config.rope.scaling == RopeConfig::Scaling::none) return;
  const bool yarn = config.rope.scaling == RopeConfig::Scaling::yarn;
  writer.add(fmt::format("{}.rope.scaling.type", s.architecture), yarn ? "yarn" : "linear");
  real("rope.scaling.factor", config.rope.factor);
  if (!yarn) return;
  number("rope.scaling.original_context_length", static_cast<int>(config.rope.original_context));
  real("rope.scaling.attn_factor", config.rope.attention_factor);
  real("rope.scaling.yarn_ext_factor", config.rope.extrapolation);
  real("rope.scaling.yarn_beta_fast", config.rope.beta_fast);
  real("rope.scaling.yarn_beta_slow", config.rope.beta_slow);
}

void add_vocabulary(const FolderText& text, int rows, gguf::Writer& writer) {
  const text::Vocabulary& v = text.vocabulary;
  std::vector<std::string> tokens = v.tokens;
  std::vector<std::int32_t> types;
  for (const text::TokenType type : v.types) types.push_back(static_cast<std::int32_t>(type));
  types.resize(tokens.size(), static_cast<std::int32_t>(text::TokenType::normal));
  // The embedding may have more rows than there are tokens.
  while (static_cast<int>(tokens.size()) < rows) {
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
    if (id >= 0) writer.add(fmt::format("tokenizer.ggml.{}_token_id", key), static_cast<std::uint32_t>(id));
  writer.add("tokenizer.ggml.add_bos_token", v.add_bos);
  writer.add("tokenizer.ggml.add_eos_token", v.add_eos);
  writer.add("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
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

}  // namespace

Result<ConvertFacts> convert_folder(const std::string& folder, const ConvertWatch& watch, NewFile& out) {
  const HfConfig hf = TRY(open_hf_config(folder));
  if (!hf.quantization.empty())
    return Error{Code::unsupported,
                 fmt::format("{}: a checkpoint quantized by {} cannot be converted; F32, F16 and BF16 "
                             "can",
                             folder, hf.quantization)};
  const Shape& shape = hf.config.shape;
  const FolderText text = TRY(read_folder_text(folder));
  if (static_cast<int>(text.vocabulary.tokens.size()) > shape.vocabulary)
    return Error{Code::corrupt, fmt::format("{}: the tokenizer has {} tokens, config.json says {}", folder,
                                            text.vocabulary.tokens.size(), shape.vocabulary)};
  const safetensors::Checkpoint weights = TRY(safetensors::Checkpoint::open(folder));
  std::vector<Source> sources;
  ConvertFacts facts{.architecture = shape.architecture};
  std::uint64_t most[3] = {};
  for (const safetensors::Tensor& tensor : weights.tensors()) {
    if (hf.tied_embedding && tensor.name == "lm_head.weight") continue;  // the embedding again
    if (tensor.name.ends_with(".rotary_emb.inv_freq")) continue;         // old folders stored the frequencies
    sources.push_back(TRY(plan(weights, tensor, shape)));
    facts.bytes += sources.back().bytes();
    most[sources.back().to == Type::f32 ? 0 : sources.back().to == Type::f16 ? 1 : 2] += sources.back().bytes();
  }
  facts.tensors = static_cast<int>(sources.size());
  TRY(check(hf.config, Planned(folder, sources, hf.rope_factors.size())));

  gguf::Writer writer;
  add_config(hf, kFileTypes[std::max_element(most, most + 3) - most], folder, writer);
  add_vocabulary(text, shape.vocabulary, writer);
  if (!hf.rope_factors.empty())
    writer.add_tensor("rope_freqs.weight", Type::f32, {static_cast<std::int64_t>(hf.rope_factors.size())},
                      std::as_bytes(std::span(hf.rope_factors)));
  std::vector<std::byte> buffer;
  std::uint64_t done = 0;
  const safetensors::Tensor* before = nullptr;  // which has been written
  for (const Source& source : sources) {
    const auto& s = source.tensor->shape;
    writer.add_tensor(source.name, source.to, {s.rbegin(), s.rend()}, source.bytes(),
                      [&]() -> Result<std::span<const std::byte>> {
                        TRY(watch(done, facts.bytes, source.name));
                        if (before != nullptr) weights.release(*before);
                        before = source.tensor;
                        done += source.bytes();
                        return written(source, buffer);
                      });
  }
  TRY(writer.give([&](std::string_view bytes) { return out.write(bytes); }));
  return facts;
}

}  // namespace ashlar::models
