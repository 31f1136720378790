#include "models/formats/lora_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <vector>

#include "base/json_full.h"
#include "base/mapped_file.h"
#include "models/formats/gguf.h"
#include "models/formats/hf_tensors.h"
#include "models/formats/safetensors.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::RawMatrix;
using kernels::Type;

constexpr std::size_t kMaxConfig = 4 << 20;

// Both halves of what stands beside a matrix, as they are found.
struct Pair {
  std::optional<RawMatrix> a, b;
};
using Pairs = std::map<std::string, Pair>;

Status check_pair(const std::string& path, const std::string& name, const Pair& pair) {
  const auto bad = [&](std::string what) {
    return Error{Code::corrupt, fmt::format("{}: the adapter of {} {}", path, gguf::quoted(name), what)};
  };
  if (!pair.a || !pair.b) return bad(fmt::format("has no matrix {}", pair.a ? "B" : "A"));
  if (pair.a->rows != pair.b->columns)
    return bad(fmt::format("has ranks that differ: A has {} rows, B {} columns", pair.a->rows, pair.b->columns));
  if (pair.a->rows > kMostRank)
    return bad(fmt::format("has the rank {}; at most {} is possible", pair.a->rows, kMostRank));
  return {};
}

// ---- PEFT ----

class PeftConfig {
 public:
  static Result<PeftConfig> open(const std::string& folder) {
    PeftConfig config;
    config.path_ = folder + "/adapter_config.json";
    const MappedFile file = TRY(MappedFile::open(config.path_));
    if (file.bytes().size() > kMaxConfig) return config.bad("is too large", Code::corrupt);
    auto json = parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, {.depth = 16});
    if (!json || !json->is_object()) return config.bad("is not a JSON object", Code::corrupt);
    config.json_ = std::move(*json);
    TRY(config.check());
    return config;
  }

  // Of one module: "model.layers.0.self_attn.q_proj". Patterns may name single ones.
  Result<float> scale(const std::string& module, int rank) const {
    const double alpha = TRY(pattern("alpha_pattern", module, alpha_));
    const double r = TRY(pattern("rank_pattern", module, rank_));
    if (r != rank)
      return bad(fmt::format("says rank {} for {}, whose matrices have {}", r, module, rank), Code::corrupt);
    return static_cast<float>(alpha / (stabilized_ ? std::sqrt(static_cast<double>(rank)) : rank));
  }

 private:
  Error bad(std::string_view what, Code code) const { return Error{code, fmt::format("{}: {}", path_, what)}; }
  bool is_set(const char* name) const {
    const auto found = json_.find(name);
    return found != json_.end() && !found->is_null() && *found != Json(false);
  }

  Status check() {
    const auto type = json_.find("peft_type");
    if (type == json_.end() || *type != "LORA")
      return bad("peft_type is not LORA, which alone is supported", Code::unsupported);
    if (is_set("use_dora")) return bad("use_dora is set, which is not supported", Code::unsupported);
    if (is_set("fan_in_fan_out")) return bad("fan_in_fan_out is set, which is not supported", Code::unsupported);
    if (is_set("alora_invocation_tokens"))
      return bad("alora_invocation_tokens is set, which is not supported", Code::unsupported);
    if (const auto bias = json_.find("bias"); bias != json_.end() && *bias != "none" && !bias->is_null())
      return bad("has biases, which are not supported", Code::unsupported);
    if (const auto saved = json_.find("modules_to_save"); saved != json_.end() && saved->is_array() && !saved->empty())
      return bad("modules_to_save has whole modules, which are not supported", Code::unsupported);
    rank_ = TRY(number("r"));
    alpha_ = TRY(number("lora_alpha"));
    stabilized_ = is_set("use_rslora");
    return {};
  }

  Result<double> number(const char* name) const {
    const auto found = json_.find(name);
    const double value = found != json_.end() && found->is_number() ? found->get<double>() : 0;
    if (!(value > 0 && value <= 1e6)) return bad(fmt::format("{} is not a number above 0", name), Code::corrupt);
    return value;
  }

  // {"q_proj": 16, "layers.0.self_attn.k_proj": 4}: the module's name or the end of it.
  Result<double> pattern(const char* name, const std::string& module, double otherwise) const {
    const auto found = json_.find(name);
    if (found == json_.end() || !found->is_object()) return otherwise;
    for (const auto& [key, value] : found->items()) {
      if (module != key && !module.ends_with("." + key)) continue;
      const double number = value.is_number() ? value.get<double>() : 0;
      if (!(number > 0 && number <= 1e6)) return bad(fmt::format("{} holds no number above 0", name), Code::corrupt);
      return number;
    }
    return otherwise;
  }

  std::string path_;
  Json json_;
  double rank_ = 0, alpha_ = 0;
  bool stabilized_ = false;
};

// What holds the bytes of a PEFT adapter: the file, and what was put into another order.
struct PeftBytes {
  safetensors::Checkpoint file;
  std::vector<std::vector<std::byte>> made;
};

Result<RawMatrix> matrix_of(const std::string& path, const safetensors::Tensor& tensor) {
  const auto type = tensor.type == safetensors::Type::f32    ? std::optional(Type::f32)
                    : tensor.type == safetensors::Type::f16  ? std::optional(Type::f16)
                    : tensor.type == safetensors::Type::bf16 ? std::optional(Type::bf16)
                                                             : std::nullopt;
  if (!type)
    return Error{Code::unsupported, fmt::format("{}: tensor {} is {}; F32, F16 and BF16 are supported", path,
                                                gguf::quoted(tensor.name), safetensors::name(tensor.type))};
  constexpr std::int64_t kMost = 1 << 24;
  const auto& s = tensor.shape;
  if (s.size() != 2 || s[0] < 1 || s[1] < 1 || s[0] > kMost || s[1] > kMost)
    return Error{Code::corrupt, fmt::format("{}: tensor {} has the shape {}; a matrix is expected", path,
                                            gguf::quoted(tensor.name), safetensors::shape_text(tensor))};
  return RawMatrix{
      .type = *type, .rows = static_cast<int>(s[0]), .columns = static_cast<int>(s[1]), .data = tensor.data.data()};
}

// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> the module, and whether it is A.
struct Half {
  std::string module;
  bool a = false;
};
std::optional<Half> half_of(std::string_view name) {
  constexpr std::string_view kWrapping = "base_model.model.";
  if (name.starts_with(kWrapping)) name.remove_prefix(kWrapping.size());
  for (const bool a : {true, false})
    for (const std::string_view end :
         {a ? ".lora_A.weight" : ".lora_B.weight", a ? ".lora_A.default.weight" : ".lora_B.default.weight"})
      if (name.ends_with(end)) {
        const std::string module = plain_name(fmt::format("{}.weight", name.substr(0, name.size() - end.size())));
        return Half{module.substr(0, module.size() - 7), a};
      }
  return std::nullopt;
}

// B's rows in the order of the matrix's own.
Result<RawMatrix> woven(const std::string& path, const std::string& name, RawMatrix b, const Shape& base,
                        PeftBytes& bytes) {
  const int heads = woven_heads(base, name);
  if (heads == 0) return b;
  if (b.rows != heads * base.head_dim)
    return Error{Code::invalid,
                 fmt::format("{}: the adapter is for another base: it gives {} rows to {}, this model has {}", path,
                             b.rows, gguf::quoted(name), heads * base.head_dim)};
  const std::size_t row = kernels::row_bytes(b.type, b.columns);
  std::vector<std::byte>& room = bytes.made.emplace_back(row * static_cast<std::size_t>(b.rows));
  for (std::size_t r = 0; r < static_cast<std::size_t>(b.rows); ++r)
    std::memcpy(room.data() + row * r, b.data + row * row_before_weaving(r, static_cast<std::size_t>(base.head_dim)),
                row);
  b.data = room.data();
  return b;
}

Result<LoraFile> open_peft(const std::string& folder, const Shape& base) {
  const PeftConfig config = TRY(PeftConfig::open(folder));
  const std::string file = folder + "/adapter_model.safetensors";
  std::error_code unknown;
  if (!fs::exists(file, unknown) && fs::exists(folder + "/adapter_model.bin", unknown))
    return Error{Code::unsupported,
                 fmt::format("{}/adapter_model.bin: pickled weights are not read; save the adapter as "
                             "safetensors",
                             folder)};
  auto bytes = std::make_shared<PeftBytes>(PeftBytes{TRY(safetensors::Checkpoint::open(file)), {}});
  std::map<std::string, std::pair<std::string, Pair>> pairs;  // by GGUF's name: the module's, and its halves
  for (const safetensors::Tensor& tensor : bytes->file.tensors()) {
    const auto half = half_of(tensor.name);
    if (!half)
      return Error{Code::unsupported,
                   fmt::format("{}: tensor {} is no matrix of a plain LoRA adapter", file, gguf::quoted(tensor.name))};
    const std::string name = gguf_name(base.architecture, half->module + ".weight");
    if (name.empty() || name == "token_embd.weight")
      return Error{name.empty() ? Code::invalid : Code::unsupported,
                   name.empty()
                       ? fmt::format("{}: the adapter is for another base: it stands beside {}, which {} does not have",
                                     folder, gguf::quoted(half->module), base.architecture)
                       : fmt::format("{}: an adapter of the embedding is not supported", folder)};
    auto& [module, pair] = pairs[name];
    module = half->module;
    const RawMatrix matrix = TRY(matrix_of(file, tensor));
    (half->a ? pair.a : pair.b) = matrix;
  }
  LoraFile out{.path = folder};
  for (auto& [name, found] : pairs) {
    auto& [module, pair] = found;
    TRY(check_pair(folder, name, pair));
    const RawMatrix b = TRY(woven(folder, name, *pair.b, base, *bytes));
    out.weights.push_back({.name = name, .a = *pair.a, .b = b, .scale = TRY(config.scale(module, pair.a->rows))});
  }
  out.owner = std::move(bytes);
  return out;
}

// ---- GGUF ----

Result<LoraFile> open_gguf_lora(const std::string& path, const Shape& base) {
  auto file = std::make_shared<gguf::File>(TRY(gguf::File::open(path)));
  const auto type = TRY(file->get<std::string_view>("general.type", ""));
  const auto kind = TRY(file->get<std::string_view>("adapter.type", ""));
  if (type != "adapter" || kind != "lora")
    return Error{Code::invalid, fmt::format("{}: is no LoRA adapter: general.type is {}, adapter.type {}", path,
                                            gguf::quoted(type), gguf::quoted(kind))};
  const auto architecture = TRY(file->get<std::string_view>("general.architecture", ""));
  if (architecture != base.architecture)
    return Error{Code::invalid,
                 fmt::format("{}: the adapter is for another base: its architecture is {}, this model's {}", path,
                             gguf::quoted(architecture), gguf::quoted(base.architecture))};
  if (file->find("adapter.alora.invocation_tokens") != nullptr)
    return Error{Code::unsupported, fmt::format("{}: adapters with invocation tokens are not supported", path)};
  const auto alpha = TRY(file->need<double>("adapter.lora.alpha"));
  if (!(alpha >= 0 && alpha <= 1e6))
    return Error{Code::corrupt, fmt::format("{}: adapter.lora.alpha is {}", path, alpha)};
  Pairs pairs;
  for (const gguf::Tensor& tensor : file->tensors()) {
    const bool a = tensor.name.ends_with(".lora_a"), b = tensor.name.ends_with(".lora_b");
    if ((!a && !b) || tensor.name.starts_with("token_embd."))
      return Error{Code::unsupported,
                   fmt::format("{}: tensor {} is no matrix of a plain LoRA adapter", path, gguf::quoted(tensor.name))};
    constexpr std::int64_t kMost = 1 << 24;
    if (tensor.rank > 2 || tensor.rows() > kMost || tensor.columns() > kMost)
      return Error{Code::unsupported, fmt::format("{}: tensor {} is {}; a matrix is expected", path,
                                                  gguf::quoted(tensor.name), gguf::dims_text(tensor))};
    const std::string name(tensor.name.substr(0, tensor.name.size() - 7));
    (a ? pairs[name].a : pairs[name].b) = RawMatrix{.type = tensor.type,
                                                    .rows = static_cast<int>(tensor.rows()),
                                                    .columns = static_cast<int>(tensor.columns()),
                                                    .data = tensor.data.data()};
  }
  LoraFile out{.path = path};
  for (const auto& [name, pair] : pairs) {
    TRY(check_pair(path, name, pair));
    // Writers without an alpha put 0, for a scale of 1.
    const double scale = alpha == 0 ? 1 : alpha / pair.a->rows;
    out.weights.push_back({.name = name, .a = *pair.a, .b = *pair.b, .scale = static_cast<float>(scale)});
  }
  out.owner = std::move(file);
  return out;
}

}  // namespace

Result<LoraFile> open_lora(const std::string& path, const Shape& base) {
  std::error_code unknown;
  LoraFile file = TRY(fs::is_directory(path, unknown) ? open_peft(path, base) : open_gguf_lora(path, base));
  if (file.weights.empty()) return Error{Code::corrupt, fmt::format("{}: the adapter holds no matrices", path)};
  return file;
}

}  // namespace ashlar::models
