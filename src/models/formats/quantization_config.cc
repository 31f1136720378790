#include "models/formats/quantization_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <iterator>

#include "base/json_full.h"
#include "base/mapped_file.h"
#include "models/formats/gguf.h"

namespace ashlar::models {
namespace {

using Method = QuantizationConfig::Method;
using Scheme = QuantizationConfig::Scheme;

constexpr std::size_t kMaxFileBytes = 4u << 20;
constexpr JsonLimits kLimits{.depth = 32, .members = 4096, .elements = 1 << 16, .unique = true};
constexpr std::int64_t kMostGroup = 1 << 24;

constexpr struct {
  std::string_view name;
  Method method;
} kMethods[] = {{"gptq", Method::gptq}, {"awq", Method::awq},        {"compressed-tensors", Method::compressed_tensors},
                {"fp8", Method::fp8},   {"fbgemm_fp8", Method::fp8}, {"bitsandbytes", Method::bitsandbytes}};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// The members of the object, by any of the names that writers gave them.
class Members {
 public:
  Members(const Json& object, std::string place) : object_(object), place_(std::move(place)) {}

  Error bad(std::string_view name, std::string_view what, Code code = Code::corrupt) const {
    return Error{code, fmt::format("{}: \"{}\" {}", place_, name, what)};
  }
  Error unsupported(std::string_view name, std::string_view found, std::string_view supported) const {
    return bad(name, fmt::format("is not supported: {}; supported: {}", gguf::quoted(found), supported),
               Code::unsupported);
  }
  const Json* find(std::string_view name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  Result<std::string> text(std::string_view name, std::string_view otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return std::string(otherwise);
    if (!value->is_string()) return bad(name, "is not a text");
    return value->get<std::string>();
  }
  Result<bool> flag(std::string_view name, bool otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return bad(name, "is not true or false");
    return value->get<bool>();
  }
  Result<std::int64_t> whole(std::string_view name, std::int64_t otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    const bool huge = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX;
    if (!value->is_number_integer() || huge) return bad(name, "is not a whole number");
    return value->get<std::int64_t>();
  }
  // Columns of a group; -1 and absence mean all of a row.
  Result<std::int64_t> group(std::string_view name) const {
    const std::int64_t size = TRY(whole(name, -1));
    if (size == -1) return 0;
    if (size < 1 || size > kMostGroup) return bad(name, fmt::format("is {}; -1 or at least 1 is expected", size));
    return size;
  }
  Result<int> bits(std::string_view name, std::initializer_list<int> possible) const {
    const std::int64_t found = TRY(whole(name, 0));
    if (std::ranges::find(possible, found) != possible.end()) return static_cast<int>(found);
    return bad(name, fmt::format("is {}; {} are supported", found, fmt::join(possible, ", ")), Code::unsupported);
  }
  // Two sizes: rows and columns.
  Result<std::optional<std::array<std::int64_t, 2>>> block(std::string_view name) const {
    using Block = std::array<std::int64_t, 2>;
    const Json* value = find(name);
    if (value == nullptr) return std::optional<Block>();
    Block block{};
    const bool pair = value->is_array() && value->size() == 2;
    for (std::size_t i = 0; i < 2; ++i) {
      const bool whole = pair && (*value)[i].is_number_unsigned();
      block[i] = whole ? static_cast<std::int64_t>((*value)[i].get<std::uint64_t>() & INT64_MAX) : 0;
      if (block[i] < 1 || block[i] > kMostGroup) return bad(name, "is not two sizes of at least 1");
    }
    return std::optional(block);
  }
  const std::string& place() const { return place_; }

 private:
  const Json& object_;
  std::string place_;
};

Status read_gptq_members(const Members& members, QuantizationConfig& out) {
  out.schemes = {{.bits = TRY(members.bits("bits", {2, 3, 4, 8})), .group = TRY(members.group("group_size"))}};
  out.by_activation = TRY(members.flag("desc_act", false));
  const std::string format = TRY(members.text("checkpoint_format", "gptq"));
  if (format != "gptq" && format != "gptq_v2") return members.unsupported("checkpoint_format", format, "gptq, gptq_v2");
  if (TRY(members.flag("is_marlin_format", false)))
    return members.bad("is_marlin_format", "is true; supported: gptq, gptq_v2", Code::unsupported);
  out.zeros_less_one = format == "gptq";
  const Json* dynamic = members.find("dynamic");
  out.per_module = dynamic != nullptr && !dynamic->empty();
  return {};
}

Status read_awq_members(const Members& members, QuantizationConfig& out) {
  const bool old = members.find("w_bit") != nullptr;
  out.schemes = {{.bits = TRY(members.bits(old ? "w_bit" : "bits", {4})),
                  .group = TRY(members.group(old ? "q_group_size" : "group_size"))}};
  out.zeros = TRY(members.flag("zero_point", true));
  const std::string version = lower(TRY(members.text("version", "gemm")));
  if (version != "gemm" && version != "exllama" && version != "ipex")
    return members.unsupported("version", version, "gemm");
  return {};
}

Result<Scheme> read_scheme(const Members& weights) {
  Scheme scheme;
  const std::string type = TRY(weights.text("type", "int"));
  if (type != "int" && type != "float") return weights.unsupported("type", type, "int, float");
  if (type == "float")
    scheme.bits = TRY(weights.bits("num_bits", {8}));
  else
    scheme.bits = TRY(weights.bits("num_bits", {2, 3, 4, 5, 6, 7, 8}));
  scheme.group = TRY(weights.group("group_size"));
  const std::string strategy = TRY(weights.text("strategy", scheme.group > 0 ? "group" : "tensor"));
  constexpr std::string_view kStrategies[] = {"tensor", "channel", "group", "block"};
  if (std::ranges::find(kStrategies, strategy) == std::end(kStrategies))
    return weights.unsupported("strategy", strategy, "tensor, channel, group, block");
  if (strategy != "group") scheme.group = 0;
  if (const auto block = TRY(weights.block("block_structure")); block && strategy == "block")
    scheme.block_rows = (*block)[0], scheme.block = (*block)[1];
  return scheme;
}

Status read_compressed_members(const Members& members, QuantizationConfig& out) {
  constexpr std::string_view kFormats[] = {"pack-quantized",  "int-quantized",   "float-quantized",
                                           "naive-quantized", "mixed-precision", "dense"};
  const std::string format = TRY(members.text("format", "dense"));
  if (std::ranges::find(kFormats, format) == std::end(kFormats))
    return members.unsupported("format", format,
                               "pack-quantized, int-quantized, float-quantized, naive-quantized, mixed-precision");
  if (const Json* sparse = members.find("sparsity_config");
      sparse != nullptr && sparse->is_object() && !sparse->empty())
    if (const std::string kind = TRY(Members(*sparse, members.place()).text("format", "dense")); kind != "dense")
      return members.unsupported("sparsity_config", kind, "dense");
  if (const Json* turned = members.find("transform_config"); turned != nullptr && turned->is_object() &&
                                                             turned->contains("config_groups") &&
                                                             !(*turned)["config_groups"].empty())
    return members.bad("transform_config", "is not supported: rotated weights", Code::unsupported);
  const Json* groups = members.find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->empty() || groups->size() > 64)
    return members.bad("config_groups", "is not an object of 1 to 64 groups");
  out.schemes.clear();
  for (const auto& [name, group] : groups->items()) {
    const std::string place = fmt::format("{}: config_groups.{}", members.place(), name);
    if (!group.is_object()) return members.bad("config_groups", "has a group that is not an object");
    const Json* weights = Members(group, place).find("weights");
    if (weights == nullptr) continue;  // activations alone
    if (!weights->is_object()) return members.bad("config_groups", "has weights that are not an object");
    out.schemes.push_back(TRY(read_scheme(Members(*weights, place))));
  }
  return {};
}

Status read_fp8_members(const Members& members, QuantizationConfig& out) {
  const std::string format = lower(TRY(members.text("fmt", "e4m3")));
  if (format != "e4m3" && format != "e5m2" && format != "float8_e4m3fn")
    return members.unsupported("fmt", format, "e4m3, e5m2");
  Scheme scheme{.bits = 8};
  if (const auto block = TRY(members.block("weight_block_size")))
    scheme.block_rows = (*block)[0], scheme.block = (*block)[1];
  out.schemes = {scheme};
  return {};
}

Result<QuantizationConfig> read_members(const Members& members, std::string_view folder, std::string_view otherwise) {
  const std::string name = lower(TRY(members.text("quant_method", otherwise)));
  if (name.empty()) return members.bad("quant_method", "is missing");
  const auto* known = std::ranges::find_if(kMethods, [&](const auto& method) { return method.name == name; });
  if (known == std::end(kMethods)) {
    std::vector<std::string_view> names;
    for (const auto& method : kMethods) names.push_back(method.name);
    return members.unsupported("quant_method", name, fmt::format("{}", fmt::join(names, ", ")));
  }
  QuantizationConfig out{.method = known->method, .place = std::string(folder)};
  switch (out.method) {
    case Method::gptq:
      TRY(read_gptq_members(members, out));
      break;
    case Method::awq:
      TRY(read_awq_members(members, out));
      break;
    case Method::compressed_tensors:
      TRY(read_compressed_members(members, out));
      break;
    case Method::fp8:
      TRY(read_fp8_members(members, out));
      break;
    case Method::bitsandbytes:  // the tensors say it all
      break;
  }
  return out;
}

Result<Json> parse_object(std::string_view text, const std::string& place) {
  auto json = parse_json(text, kLimits);
  if (!json) return Error{Code::corrupt, fmt::format("{}: {}", place, json.error().message)};
  if (!json->is_object()) return Error{Code::corrupt, fmt::format("{}: not a JSON object", place)};
  return std::move(*json);
}

// A file's text; empty: there is none.
Result<std::string> text_of(const std::string& path) {
  const auto file = MappedFile::open(path);
  if (!file && file.error().code == Code::not_found) return std::string();
  if (!file) return file.error();
  const auto bytes = file->bytes();
  if (bytes.size() > kMaxFileBytes)
    return Error{Code::corrupt,
                 fmt::format("{}: {} bytes; at most {} are expected", path, bytes.size(), kMaxFileBytes)};
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

Result<std::optional<QuantizationConfig>> read_quantization_config(std::string_view config, std::string_view gptq,
                                                                   std::string_view awq, std::string_view folder) {
  using Found = std::optional<QuantizationConfig>;
  if (!config.empty()) {
    const std::string place = fmt::format("{}/config.json", folder);
    const Json json = TRY(parse_object(config, place));
    // Older compressed-tensors writers gave it another name.
    for (const char* name : {"quantization_config", "compression_config"}) {
      const auto at = json.find(name);
      if (at == json.end() || at->is_null()) continue;
      if (!at->is_object()) return Error{Code::corrupt, fmt::format("{}: \"{}\" is not an object", place, name)};
      return Found(TRY(read_members(Members(*at, fmt::format("{}: {}", place, name)), folder, "")));
    }
  }
  if (!gptq.empty()) {
    const std::string place = fmt::format("{}/quantize_config.json", folder);
    const Json json = TRY(parse_object(gptq, place));
    return Found(TRY(read_members(Members(json, place), folder, "gptq")));
  }
  if (!awq.empty()) {
    const std::string place = fmt::format("{}/quant_config.json", folder);
    const Json json = TRY(parse_object(awq, place));
    return Found(TRY(read_members(Members(json, place), folder, "awq")));
  }
  return Found();
}

Result<std::optional<QuantizationConfig>> open_quantization_config(const std::string& folder) {
  return read_quantization_config(TRY(text_of(folder + "/config.json")), TRY(text_of(folder + "/quantize_config.json")),
                                  TRY(text_of(folder + "/quant_config.json")), folder);
}

}  // namespace ashlar::models
