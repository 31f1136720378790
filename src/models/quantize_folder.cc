#include "models/quantize_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cmath>
#include <filesystem>

#include "base/json_full.h"
#include "base/mapped_file.h"
#include "kernels/blocks.h"
#include "models/formats/hf_tensors.h"
#include "models/formats/safetensors_writer.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostConfig = 4u << 20;
constexpr std::size_t kPiece = 1 << 20;  // bytes of a file that are copied at once
constexpr JsonLimits kLimits{.depth = 32, .members = 4096, .elements = 1 << 16, .unique = true};

std::optional<kernels::Type> float_type(safetensors::Type type) {
  switch (type) {
    case safetensors::Type::f32:
      return kernels::Type::f32;
    case safetensors::Type::f16:
      return kernels::Type::f16;
    case safetensors::Type::bf16:
      return kernels::Type::bf16;
    default:
      return std::nullopt;
  }
}

// "model.layers.0.mlp.experts.17.up_proj.weight" without the number, as the names of all experts together are.
std::string without_expert(std::string name) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t at = name.find(kExperts);
  if (at == name.npos) return name;
  const std::size_t begin = at + kExperts.size();
  std::size_t end = begin;
  while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) ++end;
  if (end > begin && end < name.size() && name[end] == '.') name.erase(begin, end + 1 - begin);
  return name;
}

// A matrix of a layer that multiplies: not one that chooses experts, nor a norm.
bool multiplies(std::string_view gguf_name) {
  return gguf_name.starts_with("blk.") && gguf_name.ends_with(".weight") && !gguf_name.ends_with("norm.weight") &&
         gguf_name.find(".ffn_gate_inp") == gguf_name.npos && gguf_name.find("_sinks.") == gguf_name.npos;
}

Result<FolderTensor> look_at(const safetensors::Tensor& source, const LoadedModel& model, const std::string& folder) {
  FolderTensor out{.source = &source, .module = source.name.substr(0, source.name.rfind('.'))};
  const std::string plain = plain_name(source.name);
  const std::string name = gguf_name(model.shape.architecture, without_expert(plain));
  if (name.empty()) return out;
  const bool matrix = source.shape.size() == 2 && source.shape[0] > 1;
  out.quantized = matrix && multiplies(name) && float_type(source.type).has_value();
  const gguf::Tensor* tensor = model.file->find_tensor(name);
  if (tensor == nullptr || tensor->elements() != source.elements()) return out;
  const Renamed renamed =
      TRY(rename({.name = plain, .type = tensor->type, .shape = source.shape, .from = {&source}}, model.shape, folder));
  out.tensor = tensor;
  out.woven_heads = renamed.woven_heads;
  out.plus = renamed.plus;
  return out;
}

Result<std::string> new_config(const std::string& folder, const FolderForm& form,
                               const std::vector<std::string>& kept) {
  const auto file = TRY(MappedFile::open(folder + "/config.json"));
  const auto bytes = file.bytes();
  const std::string place = folder + "/config.json";
  if (bytes.size() > kMostConfig) return Error{Code::corrupt, place + ": is too large"};
  auto json = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, kLimits);
  if (!json) return Error{Code::corrupt, fmt::format("{}: {}", place, json.error().message)};
  for (const char* key : {"quantization_config", "compression_config"})
    if (const auto at = json->find(key); at != json->end() && !at->is_null())
      return Error{Code::invalid,
                   fmt::format("{}: is quantized already; what that rounding lost does not come back, so give the "
                               "original folder of F16, BF16 or F32",
                               folder)};
  (*json)["quantization_config"] = quantization_config(form, kept);
  return json->dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// What makes a tokenizer, says how to talk to the model, or tells of it; never code or weights of another kind.
bool is_copied(const fs::path& file) {
  const std::string name = file.filename().string(), kind = file.extension().string();
  for (const std::string_view other : {"config.json", "quantize_config.json", "quant_config.json"})
    if (name == other) return false;
  if (name.ends_with(".index.json") || name.starts_with(".")) return false;
  for (const std::string_view copied : {".json", ".txt", ".jinja", ".model", ".tiktoken", ".md"})
    if (kind == copied) return true;
  return name == "LICENSE" || name == "NOTICE";
}

Status copy_files(const FolderPlan& plan, const std::function<Status()>& look, NewFolder& out) {
  std::error_code failed;
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(plan.folder, failed))
    if (entry.is_regular_file(failed) && is_copied(entry.path())) files.push_back(entry.path());
  if (failed) return Error{Code::io, fmt::format("{}: {}", plan.folder, failed.message())};
  std::ranges::sort(files);
  for (const fs::path& path : files) {
    const auto file = TRY(MappedFile::open(path.string()));
    TRY(out.begin(path.filename().string()));
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    for (std::size_t at = 0; at < text.size(); at += kPiece) {
      TRY(look());
      TRY(out.write(text.substr(at, kPiece)));
    }
    TRY(out.end());
  }
  return {};
}

Status write_text(NewFolder& out, const std::string& name, std::string_view text) {
  TRY(out.begin(name));
  TRY(out.write(text));
  return out.end();
}

// Rounds one matrix after another; its parts are given one after another too.
class Rounder {
 public:
  Rounder(const FolderPlan& plan, ThreadPool& pool) : plan_(plan), pool_(pool) {}

  Result<std::span<const std::byte>> part(const FolderTensor& matrix, std::size_t index) {
    if (now_ != &matrix) {
      now_ = nullptr;
      const std::vector<float> w = TRY(folder_floats(plan_, *matrix.source, pool_));
      const auto coded = round_matrix(w, static_cast<int>(matrix.source->shape[1]), plan_.form.code, {}, pool_);
      if (!coded)
        return Error{coded.error().code, fmt::format("{}: tensor {} {}", plan_.folder,
                                                     gguf::quoted(matrix.source->name), coded.error().message)};
      parts_ = pack_module(plan_.form, *coded, pool_);
      plan_.weights.release(*matrix.source);
      now_ = &matrix;
    }
    return std::span<const std::byte>(parts_[index].bytes);
  }

 private:
  const FolderPlan& plan_;
  ThreadPool& pool_;
  const FolderTensor* now_ = nullptr;  // whose parts these are
  std::vector<ModulePart> parts_;
};

}  // namespace

Result<std::vector<float>> folder_floats(const FolderPlan& plan, const safetensors::Tensor& tensor, ThreadPool& pool) {
  const auto type = float_type(tensor.type);
  CHECK(type.has_value(), "a tensor of floats");
  std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
  const auto rows = static_cast<std::size_t>(tensor.shape.size() > 1 ? tensor.shape.front() : 1);
  const std::size_t columns = out.size() / rows, row_bytes = tensor.data.size() / rows;
  std::atomic<bool> finite = true;
  pool.for_each(static_cast<int>(rows), [&](int r, int) {
    float* row = out.data() + static_cast<std::size_t>(r) * columns;
    kernels::dequantize_row(*type, tensor.data.data() + static_cast<std::size_t>(r) * row_bytes, row,
                            static_cast<std::int64_t>(columns));
    if (!std::all_of(row, row + columns, [](float x) { return std::isfinite(x); })) finite = false;
  });
  if (finite) return out;
  return Error{Code::corrupt,
               fmt::format("{}: tensor {} holds a value that is not finite", plan.folder, gguf::quoted(tensor.name))};
}

Result<FolderPlan> plan_folder(const LoadedModel& model, const std::string& folder, const FolderForm& form,
                               const FolderLimits& limits) {
  if (!fs::is_directory(folder))
    return Error{Code::invalid,
                 fmt::format("{}: is a file; {} is made of a Hugging Face folder, whose tokenizer and config.json it "
                             "needs",
                             folder, form.name())};
  if (!model.config || model.config->encoder)
    return Error{Code::unsupported,
                 fmt::format("{}: is no model that generates, of which alone folders are made", folder)};
  if (form.method == Method::rtn && model.facts.parameters > limits.rtn_parameters)
    return Error{
        Code::too_large,
        fmt::format("{}: has {:.1f} billion parameters; above {:.1f} billion a few large activations carry much "
                    "of what a model knows, and rounding without regard to them may cost more than it seems",
                    folder, static_cast<double>(model.facts.parameters) / 1e9,
                    static_cast<double>(limits.rtn_parameters) / 1e9)};
  FolderPlan plan{.form = form, .folder = folder, .weights = TRY(safetensors::Checkpoint::open(folder))};
  plan.kept.push_back("lm_head");
  for (const safetensors::Tensor& source : plan.weights.tensors()) {
    FolderTensor tensor = TRY(look_at(source, model, folder));
    plan.elements += source.elements();
    if (tensor.quantized) {
      const std::string why = misfit(form, source.shape[0], source.shape[1]);
      if (!why.empty()) plan.misfits.push_back(fmt::format("{} stays as it is: {}", tensor.module, why));
      tensor.quantized = why.empty();
    }
    const bool matrix =
        source.shape.size() == 2 && source.name.ends_with(".weight") && !source.name.ends_with("norm.weight");
    const bool looked_up = source.name.find("embed") != source.name.npos;
    if (matrix && !tensor.quantized && !looked_up && tensor.module != "lm_head") plan.kept.push_back(tensor.module);
    if (tensor.quantized) {
      plan.quantized += source.elements();
      for (const ModulePart& part : module_parts(form, source.shape[0], source.shape[1])) {
        std::uint64_t elements = 1;
        for (const std::int64_t n : part.shape) elements *= static_cast<std::uint64_t>(n);
        plan.bytes += elements * static_cast<std::uint64_t>(safetensors::bytes_of(part.type));
      }
    } else {
      plan.bytes += source.data.size();
    }
    plan.tensors.push_back(std::move(tensor));
  }
  plan.config = TRY(new_config(folder, form, plan.kept));
  if (plan.quantized == 0)
    return Error{Code::unsupported, fmt::format("{}: no matrix of it can be {}{}", folder, form.name(),
                                                plan.misfits.empty() ? "" : "; " + plan.misfits.front())};
  return plan;
}

Status write_folder(const FolderPlan& plan, const MadeTensors& made, ThreadPool& pool, const FolderWatch& watch,
                    NewFolder& out, std::uint64_t shard_bytes) {
  safetensors::Writer writer;
  writer.add_metadata("format", "pt");
  Rounder rounder(plan, pool);
  std::int64_t done = 0;
  std::string_view now;
  const auto add = [&](const safetensors::Tensor& tensor) {
    writer.add(tensor.name, tensor.type, tensor.shape,
               [&tensor]() -> Result<std::span<const std::byte>> { return tensor.data; });
  };
  const auto find_made = [&](const std::string& name) {
    const auto found = made.find(name);
    return found == made.end() ? nullptr : found->second;
  };
  for (const FolderTensor& tensor : plan.tensors) {
    const safetensors::Tensor& source = *tensor.source;
    if (!tensor.quantized) {
      const safetensors::Tensor* changed = find_made(source.name);
      const safetensors::Tensor& given = changed != nullptr ? *changed : source;
      writer.add(source.name, given.type, given.shape, [&]() -> Result<std::span<const std::byte>> {
        now = source.name;
        done += source.elements();
        TRY(watch(done, now));
        return given.data;
      });
      continue;
    }
    const auto parts = module_parts(plan.form, source.shape[0], source.shape[1]);
    const bool by_method = find_made(tensor.module + parts.front().suffix) != nullptr;
    for (std::size_t i = 0; i < parts.size() && !by_method; ++i)
      writer.add(tensor.module + parts[i].suffix, parts[i].type, parts[i].shape,
                 [&, i]() -> Result<std::span<const std::byte>> {
                   now = source.name;
                   if (i == 0) done += source.elements();
                   TRY(watch(done, now));
                   return rounder.part(tensor, i);
                 });
    if (!by_method) continue;
    for (const ModulePart& part : parts) add(*find_made(tensor.module + part.suffix));
    for (const std::string_view suffix : kOutlierSuffixes)
      if (const auto* outliers = find_made(fmt::format("{}{}", tensor.module, suffix))) add(*outliers);
  }
  const auto look = [&] { return watch(done, now); };
  TRY(write_text(out, "config.json", plan.config));
  if (plan.form.format == FolderFormat::gptq)  // where AutoGPTQ looks
    TRY(write_text(out, "quantize_config.json", quantization_config(plan.form, plan.kept).dump(2) + "\n"));
  TRY(copy_files(plan, look, out));
  return writer.write(out, shard_bytes, look);
}

}  // namespace ashlar::models
