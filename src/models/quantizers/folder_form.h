// The forms in which a quantized folder may be written: whose readers it is for, and how each weight is coded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "models/formats/safetensors.h"
#include "models/quantizers/calibrated.h"
#include "models/quantizers/coded_matrix.h"

namespace ashlar::models {

enum class FolderFormat { gptq, awq, compressed_tensors, fp8, bitsandbytes };

struct FolderForm {
  FolderFormat format = FolderFormat::compressed_tensors;
  Method method = Method::rtn;
  CodeForm code;
  bool activations = false;  // are 8 bits too: W8A8, FP8
  float outliers = 6;        // LLM.int8(): columns that meet greater inputs stay in 16 bits
  float damping = 0.01f;     // as GPTQ had it, for the record

  std::string name() const;  // "gptq 4 bits, groups of 128", to show
};

// What somebody asks for. Empty, or 0: the usual.
struct FolderWish {
  std::string format;  // "gptq", "awq", "compressed-tensors", "bitsandbytes"
  std::string type;    // "W4A16", "W8A16", "W8A8", "F8_E4M3", "F8_E5M2"
  std::string scales;  // 8-bit floats: "channel", "tensor"
  Method method = Method::rtn;
  int bits = 0, group = 0;  // group -1: all of a row
  bool symmetric = false, asymmetric = false;
};

// Whether a type is one of folders alone: then no format need be named.
bool is_folder_type(std::string_view type);

// invalid: an unknown name, or what does not go together; one sentence with what does.
Result<FolderForm> form_of(const FolderWish& wish);

// "quantization_config" of config.json. `kept`: modules that hold matrices which are not quantized.
Json quantization_config(const FolderForm& form, const std::vector<std::string>& kept);

// A tensor of a quantized module: "MODULE" + suffix.
struct ModulePart {
  std::string suffix;
  safetensors::Type type = safetensors::Type::i32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;  // empty where only the shape is told
};

// Why a matrix of this size cannot be had in this form; empty: it can.
std::string misfit(const FolderForm& form, std::int64_t rows, std::int64_t columns);

// LLM.int8(): what a module has besides, where some of its columns meet outliers: which, and their weights as they are.
inline constexpr std::string_view kOutlierSuffixes[] = {".outlier_columns", ".outlier_weight"};

// What a matrix that fits becomes, without bytes, and with them.
std::vector<ModulePart> module_parts(const FolderForm& form, std::int64_t rows, std::int64_t columns);
std::vector<ModulePart> pack_module(const FolderForm& form, const CodedMatrix& matrix, ThreadPool& pool);

}  // namespace ashlar::models
