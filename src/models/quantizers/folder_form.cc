#include "models/quantizers/folder_form.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/json_full.h"
#include "models/formats/gguf.h"

namespace ashlar::models {
namespace {

using Levels = CodeForm::Levels;
using Scales = CodeForm::Scales;

constexpr std::pair<std::string_view, FolderFormat> kFormats[] = {
    {"gptq", FolderFormat::gptq},
    {"awq", FolderFormat::awq},
    {"compressed-tensors", FolderFormat::compressed_tensors},
    {"bitsandbytes", FolderFormat::bitsandbytes}};

struct FolderType {
  std::string_view name;
  Levels levels;
  int bits;
  bool activations;
};
constexpr FolderType kTypes[] = {{"W4A16", Levels::integers, 4, false},
                                 {"W8A16", Levels::integers, 8, false},
                                 {"W8A8", Levels::integers, 8, true},
                                 {"F8_E4M3", Levels::f8_e4m3, 8, true},
                                 {"F8_E5M2", Levels::f8_e5m2, 8, true}};
constexpr int kGroups[] = {32, 64, 128, -1};

std::string upper(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  return out;
}

const FolderType* find_type(std::string_view name) {
  const std::string wanted = upper(name);
  const auto* found = std::ranges::find(kTypes, wanted, &FolderType::name);
  return found == std::end(kTypes) ? nullptr : found;
}

template <class List>
std::string names_of(const List& list, auto name) {
  std::string out;
  for (const auto& one : list) out += fmt::format("{}{}", out.empty() ? "" : ", ", name(one));
  return out;
}

Error refuse(std::string_view option, const std::string& what) {
  return Error{Code::invalid, fmt::format("--{}: {}", option, what)};
}

// Bits that a format has for weights alone.
std::vector<int> bits_of(FolderFormat format) {
  switch (format) {
    case FolderFormat::gptq:
      return {2, 3, 4, 8};
    case FolderFormat::awq:
      return {4};
    case FolderFormat::compressed_tensors:
      return {4, 8};
    case FolderFormat::fp8:
    case FolderFormat::bitsandbytes:
      break;
  }
  return {8};
}

std::string_view format_name(FolderFormat format) {
  if (format == FolderFormat::fp8) return "fp8";
  return std::ranges::find(kFormats, format, [](const auto& one) { return one.second; })->first;
}

Result<FolderFormat> find_format(const FolderWish& wish) {
  if (wish.format.empty())
    return wish.method == Method::llm_int8 ? FolderFormat::bitsandbytes : FolderFormat::compressed_tensors;
  for (const auto& [name, format] : kFormats)
    if (name == wish.format) return format;
  return refuse("format", fmt::format("no format is called {}; known are gguf, {}", gguf::quoted(wish.format),
                                      names_of(kFormats, [](const auto& one) { return one.first; })));
}

Status check_method(const FolderForm& form) {
  using enum Method;
  std::vector<Method> fit;
  if (form.format == FolderFormat::bitsandbytes)
    fit = {llm_int8};
  else if (form.activations)
    fit = {rtn, smoothquant, gptq};
  else
    fit = {rtn, gptq, awq};
  if (std::ranges::find(fit, form.method) != fit.end()) return {};
  return refuse("method", fmt::format("{} does not make {}; {} {}", name_of(form.method), form.name(),
                                      fit.size() > 1 ? "these do:" : "this does:",
                                      names_of(fit, [](Method m) { return name_of(m); })));
}

Status set_type(const FolderWish& wish, FolderForm& form) {
  if (wish.type.empty()) return {};
  const FolderType* type = find_type(wish.type);
  if (type == nullptr || form.format != FolderFormat::compressed_tensors)
    return refuse("type", fmt::format("{} is none of {}; compressed-tensors has {}, gptq and awq take --bits",
                                      gguf::quoted(wish.type), format_name(form.format),
                                      names_of(kTypes, [](const FolderType& one) { return one.name; })));
  form.code.levels = type->levels;
  form.code.bits = type->bits;
  form.activations = type->activations;
  if (type->levels == Levels::f8_e5m2) form.format = FolderFormat::fp8;  // of which compressed-tensors knows nothing
  if (wish.bits != 0 && wish.bits != type->bits)
    return refuse("bits", fmt::format("{} has {}, not {}", type->name, type->bits, wish.bits));
  return {};
}

Status set_bits(const FolderWish& wish, FolderForm& form) {
  const std::vector<int> bits = bits_of(form.format);
  if (wish.type.empty()) form.code.bits = wish.bits != 0 ? wish.bits : std::ranges::find(bits, 4) != bits.end() ? 4 : 8;
  if (std::ranges::find(bits, form.code.bits) == bits.end())
    return refuse("bits",
                  fmt::format("{} has {}, not {}", format_name(form.format), fmt::join(bits, ", "), form.code.bits));
  return {};
}

Status set_scales(const FolderWish& wish, FolderForm& form) {
  CodeForm& code = form.code;
  const bool floats = code.levels != Levels::integers;
  const bool rows = form.activations || form.format == FolderFormat::bitsandbytes;
  if (!wish.scales.empty() && !floats) return refuse("scales", "of 8-bit floats alone; of integers there is --group");
  if (!wish.scales.empty() && wish.scales != "channel" && wish.scales != "tensor")
    return refuse("scales", fmt::format("is {}; channel or tensor is expected", gguf::quoted(wish.scales)));
  if (rows && wish.group != 0 && wish.group != -1)
    return refuse("group", fmt::format("{} has one scale for each row, which products of 8 bits need", form.name()));
  if (std::ranges::find(kGroups, wish.group) == std::end(kGroups) && wish.group != 0)
    return refuse("group", fmt::format("is {}; 32, 64, 128, or -1 for all of a row is expected", wish.group));
  code.halves = !rows;
  code.group = wish.group > 0 ? wish.group : 128;
  code.scales = wish.scales == "tensor" ? Scales::whole : rows || wish.group == -1 ? Scales::rows : Scales::groups;
  code.greatest_127 = form.format == FolderFormat::bitsandbytes;
  if (wish.symmetric && wish.asymmetric) return refuse("asymmetric", "and --symmetric exclude each other");
  if (wish.asymmetric && rows) return refuse("asymmetric", fmt::format("{} is symmetric", form.name()));
  code.symmetric = !wish.asymmetric && (wish.symmetric || form.format != FolderFormat::awq);
  // GPTQ stores zeros minus one, and readers disagree on what comes before 0.
  if (form.format == FolderFormat::gptq) code.least_zero = 1;
  return {};
}

// "config_groups" of compressed-tensors: weights, or activations, of one kind.
Json scheme(const FolderForm& form, bool activations) {
  const CodeForm& code = form.code;
  const bool groups = !activations && code.scales == Scales::groups;
  const char* strategy = activations ? "token" : code.scales == Scales::whole ? "tensor" : groups ? "group" : "channel";
  return {{"num_bits", code.bits},
          {"type", code.levels == Levels::integers ? "int" : "float"},
          {"symmetric", code.symmetric},
          {"group_size", groups ? Json(code.group) : Json()},
          {"strategy", strategy},
          {"block_structure", nullptr},
          {"dynamic", activations},
          {"actorder", nullptr},
          {"observer", activations ? Json() : Json("minmax")},
          {"observer_kwargs", Json::object()}};
}

std::string_view compressed_format(const FolderForm& form) {
  if (form.code.levels != Levels::integers) return "float-quantized";
  return form.activations ? "int-quantized" : "pack-quantized";
}

// A module's name as a pattern that nothing else matches.
std::string pattern(std::string_view module) {
  std::string out;
  for (const char c : module) out += c == '.' ? "\\." : std::string(1, c);
  return out;
}

}  // namespace

bool is_folder_type(std::string_view type) { return find_type(type) != nullptr; }

std::string FolderForm::name() const {
  if (format == FolderFormat::bitsandbytes) return "bitsandbytes int8";
  if (code.levels != Levels::integers)
    return fmt::format("{} per {}", code.levels == Levels::f8_e4m3 ? "F8_E4M3" : "F8_E5M2",
                       code.scales == Scales::whole ? "tensor" : "channel");
  if (activations) return "W8A8";
  return fmt::format("{} {} bits{}{}", format_name(format), code.bits,
                     code.scales == Scales::groups ? fmt::format(", groups of {}", code.group) : ", a scale for a row",
                     code.symmetric ? "" : ", with zeros");
}

Result<FolderForm> form_of(const FolderWish& wish) {
  FolderForm form{.format = TRY(find_format(wish)), .method = wish.method};
  TRY(set_type(wish, form));
  TRY(set_bits(wish, form));
  TRY(set_scales(wish, form));
  TRY(check_method(form));
  return form;
}

Json quantization_config(const FolderForm& form, const std::vector<std::string>& kept) {
  const CodeForm& code = form.code;
  const int group = code.scales == Scales::groups ? code.group : -1;
  switch (form.format) {
    case FolderFormat::gptq: {
      Json config = {{"quant_method", "gptq"},      {"checkpoint_format", "gptq"}, {"bits", code.bits},
                     {"group_size", group},         {"sym", code.symmetric},       {"desc_act", false},
                     {"static_groups", false},      {"true_sequential", false},    {"lm_head", false},
                     {"damp_percent", form.damping}};
      Json left_out = Json::object();
      for (const std::string& module : kept)
        if (module != "lm_head") left_out[fmt::format("-:^{}$", pattern(module))] = Json::object();
      if (!left_out.empty()) config["dynamic"] = std::move(left_out);
      return config;
    }
    case FolderFormat::awq:
      return {{"quant_method", "awq"}, {"bits", code.bits}, {"group_size", group},
              {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", kept}};
    case FolderFormat::compressed_tensors:
      return {{"quant_method", "compressed-tensors"},
              {"format", compressed_format(form)},
              {"quantization_status", "compressed"},
              {"config_groups",
               {{"group_0",
                 {{"targets", Json::array({"Linear"})},
                  {"weights", scheme(form, false)},
                  {"input_activations", form.activations ? scheme(form, true) : Json()},
                  {"output_activations", nullptr}}}}},
              {"ignore", kept},
              {"kv_cache_scheme", nullptr}};
    case FolderFormat::fp8:
      return {{"quant_method", "fp8"},
              {"fmt", code.levels == Levels::f8_e5m2 ? "e5m2" : "e4m3"},
              {"activation_scheme", "dynamic"},
              {"modules_to_not_convert", kept}};
    case FolderFormat::bitsandbytes:
      break;
  }
  return {{"quant_method", "bitsandbytes"},
          {"load_in_8bit", true},
          {"load_in_4bit", false},
          {"llm_int8_threshold", form.outliers},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_skip_modules", kept}};
}

}  // namespace ashlar::models
