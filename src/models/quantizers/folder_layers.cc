#include "models/quantizers/folder_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "kernels/blocks.h"
#include "models/formats/hf_tensors.h"
#include "models/formats/new_file.h"
#include "models/formats/quantization_config.h"
#include "models/formats/quantized_checkpoint.h"
#include "models/formats/safetensors_writer.h"
#include "models/quantizers/coded_matrix.h"
#include "models/quantizers/input_measure.h"
#include "models/quantizers/layer_walk.h"
#include "models/quantizers/scaling.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using safetensors::Type;

std::string layer_path(const std::string& folder, int layer) {
  return fmt::format("{}/layer-{:04}.safetensors", folder, layer);
}

// FNV-1a, to tell one text, or one way of quantizing, from another.
std::uint64_t hash_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

// What two runs agree in when one may go on where the other stopped.
std::string job_of(const LoadedModel& model, const FolderPlan& plan, const Calibration& c) {
  return fmt::format(
      "{} {} parameters {} bytes, {} {}, damping {} order {} outliers {}, {:016x}, {} tokens {:016x} in windows of {}",
      model.facts.name, model.facts.parameters, model.facts.bytes.count, name_of(plan.form.method), plan.form.name(),
      c.gptq.damping, c.gptq.activation_order, plan.form.outliers, hash_of(std::as_bytes(std::span(plan.config))),
      c.tokens.size(), hash_of(std::as_bytes(c.tokens)), c.window);
}

struct NewTensor {
  std::string name;
  Type type;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

std::vector<std::byte> bytes_of(std::span<const float> values, Type type) {
  const auto size = static_cast<std::size_t>(safetensors::bytes_of(type));
  std::vector<std::byte> out(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = type == Type::f16 ? kernels::f32_to_f16(values[i]) : kernels::f32_to_bf16(values[i]);
    if (type == Type::f32)
      std::memcpy(out.data() + i * size, &values[i], size);
    else
      std::memcpy(out.data() + i * size, &half, size);
  }
  return out;
}

// As it stands in the folder, of what stands so in GGUF.
std::vector<float> in_folder(const FolderTensor& tensor, std::span<const float> values) {
  std::vector<float> out(values.begin(), values.end());
  for (float& v : out) v -= tensor.plus;
  if (tensor.woven_heads == 0) return out;
  const auto rows = static_cast<std::size_t>(tensor.source->shape.front());
  const std::size_t columns = values.size() / rows, head_rows = rows / static_cast<std::size_t>(tensor.woven_heads);
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(values.data() + r * columns, columns, out.data() + row_before_weaving(r, head_rows) * columns);
  return out;
}

// One layer at a time.
class FolderLayerMaker {
 public:
  FolderLayerMaker(const LoadedModel& model, const FolderPlan& plan, const Calibration& calibration, LayerWalk& walk,
                   ThreadPool& pool, const CalibrationWatch& watch)
      : model_(model),
        plan_(plan),
        form_(plan.form),
        calibration_(calibration),
        walk_(walk),
        pool_(pool),
        watch_(watch) {
    for (const FolderTensor& tensor : plan.tensors)
      if (tensor.tensor != nullptr) known_[tensor.tensor] = &tensor;
  }

  Result<std::vector<NewTensor>> make(int layer) {
    layer_ = layer;
    out_.clear();
    // Every weight is looked at before work that takes long.
    for (const LayerWalk::Product& product : walk_.products())
      for (const gguf::Tensor* tensor : product.tensors)
        if (known_.contains(tensor)) TRY(folder_floats(plan_, *known_.at(tensor)->source, pool_));
    TRY(measure());
    if (form_.method == Method::gptq)
      TRY(compensate());
    else if (form_.method == Method::llm_int8)
      TRY(keep_outliers());
    else
      TRY(rescale());
    return std::move(out_);
  }

 private:
  Status look(double within) { return watch_((layer_ + within) / walk_.layers(), layer_); }
  // nullptr: it stays as it is.
  const FolderTensor* coded(const gguf::Tensor* tensor) const {
    const auto found = known_.find(tensor);
    return found != known_.end() && found->second->quantized ? found->second : nullptr;
  }
  bool any_coded(const LayerWalk::Product& product) const {
    return std::ranges::any_of(product.tensors, [&](const gguf::Tensor* t) { return coded(t) != nullptr; });
  }
  Status look_at(const LayerWalk::Product& product) {
    const auto index = &product - walk_.products().data();
    return look(0.4 + 0.4 * static_cast<double>(index) / static_cast<double>(walk_.products().size()));
  }

  Status measure() {
    const bool products = form_.method == Method::gptq || form_.method == Method::awq;
    InputMeasure measure(walk_.products(), walk_.tokens(), products, pool_);
    const LayerWalk::See see = [&](const LayerWalk::Product& product, float* h, std::size_t ld, int rows) {
      measure.see(product, h, ld, rows);
    };
    double windows = 0;
    TRY(walk_.pass(false, see,
                   [&] { return look(0.4 * windows++ * calibration_.window / static_cast<double>(walk_.tokens())); }));
    inputs_ = TRY(measure.finish());
    return {};
  }

  void add(const FolderTensor& tensor, const CodedMatrix& matrix) {
    for (ModulePart& part : pack_module(form_, matrix, pool_))
      out_.push_back({tensor.module + part.suffix, part.type, std::move(part.shape), std::move(part.bytes)});
  }
  Status add_rounded(const FolderTensor& tensor, std::span<const float> w, std::span<const float> importance) {
    const auto matrix = round_matrix(w, static_cast<int>(tensor.source->shape[1]), form_.code, importance, pool_);
    if (!matrix) return refused(tensor, matrix.error());
    add(tensor, *matrix);
    return {};
  }
  Error refused(const FolderTensor& tensor, const Error& error) const {
    return Error{error.code,
                 fmt::format("{}: tensor {} {}", plan_.folder, gguf::quoted(tensor.source->name), error.message)};
  }

  Status compensate() {
    for (const LayerWalk::Product& product : walk_.products()) {
      TRY(look_at(product));
      if (!any_coded(product)) continue;
      const auto curvature =
          TRY(Curvature::create(std::move(inputs_[product.packed].h), product.columns(), calibration_.gptq, pool_));
      for (const gguf::Tensor* each : product.tensors) {
        const FolderTensor* tensor = coded(each);
        if (tensor == nullptr) continue;
        const auto w = TRY(folder_floats(plan_, *tensor->source, pool_));
        const auto matrix = gptq_matrix(w, form_.code, curvature, pool_);
        if (!matrix) return refused(*tensor, matrix.error());
        add(*tensor, *matrix);
      }
    }
    return {};
  }

  // Scales first, for the sources of some are tensors of others; then all that changed is rounded, or stored anew.
  Status rescale() {
    const bool smooth = form_.method == Method::smoothquant;
    LayerFloats floats(walk_, layer_, model_.shape, pool_);
    const RoundRow round = [&](const gguf::Tensor& tensor, std::span<float> row, std::span<const float> importance) {
      if (coded(&tensor) != nullptr) round_row(row, form_.code, importance);
    };
    std::map<const gguf::Tensor*, std::vector<float>> importance;
    for (const LayerWalk::Product& product : walk_.products()) {
      TRY(look_at(product));
      if (!any_coded(product)) continue;
      const InputStatistics& input = inputs_[product.packed];
      const std::vector<int> sharing = floats.sharing(product);
      const auto n = static_cast<std::size_t>(product.columns());
      std::vector<float> scale(n, 1.0f);
      // Norms alone take SmoothQuant's scales, as the paper has it.
      if (!sharing.empty() && (!smooth || product.tensors.size() > 1)) {
        scale = smooth ? smooth_scales(product, floats, input, sharing)
                       : TRY(awq_scales(product, floats, input, sharing, round, pool_));
        floats.scale(product, scale);
      }
      for (const gguf::Tensor* tensor : product.tensors) {
        std::vector<float>& weights = importance[tensor];
        for (std::size_t i = 0; i < n && !smooth; ++i) weights.push_back(input.h[i * (n + 1)] / (scale[i] * scale[i]));
      }
    }
    for (const auto& [each, weights] : importance)
      if (const FolderTensor* tensor = coded(each))
        TRY(add_rounded(*tensor, in_folder(*tensor, floats.of(*each)), weights));
    for (const gguf::Tensor* each : floats.changed()) {
      const auto known = known_.find(each);
      CHECK(known != known_.end(), "what a method changes is a tensor of the folder");
      const FolderTensor& tensor = *known->second;
      if (tensor.quantized) continue;
      const safetensors::Tensor& source = *tensor.source;
      // In 16 bits a norm's new weights would be off where its codes are not.
      const Type type = source.shape.size() == 1 ? Type::f32 : source.type;
      out_.push_back({source.name, type, source.shape, bytes_of(in_folder(tensor, floats.of(*each)), type)});
    }
    return {};
  }

  Status keep_outliers() {
    for (const LayerWalk::Product& product : walk_.products()) {
      TRY(look_at(product));
      std::vector<std::int32_t> columns;
      const std::vector<float>& most = inputs_[product.packed].most;
      for (std::size_t i = 0; i < most.size(); ++i)
        if (most[i] > form_.outliers) columns.push_back(static_cast<std::int32_t>(i));
      for (const gguf::Tensor* each : product.tensors) {
        const FolderTensor* tensor = coded(each);
        if (tensor == nullptr) continue;
        const auto w = TRY(folder_floats(plan_, *tensor->source, pool_));
        TRY(add_rounded(*tensor, w, {}));
        if (!columns.empty()) add_outliers(*tensor, w, columns);
      }
    }
    return {};
  }

  void add_outliers(const FolderTensor& tensor, std::span<const float> w, const std::vector<std::int32_t>& columns) {
    const auto rows = tensor.source->shape[0];
    const auto n = static_cast<std::size_t>(tensor.source->shape[1]);
    std::vector<float> values;
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
      for (const std::int32_t c : columns) values.push_back(w[r * n + static_cast<std::size_t>(c)]);
    const Type type = tensor.source->type == Type::f16 ? Type::f16 : Type::bf16;
    std::vector<std::byte> indices(columns.size() * 4);
    std::memcpy(indices.data(), columns.data(), indices.size());
    const auto count = static_cast<std::int64_t>(columns.size());
    out_.push_back({fmt::format("{}{}", tensor.module, kOutlierSuffixes[0]), Type::i32, {count}, std::move(indices)});
    out_.push_back(
        {fmt::format("{}{}", tensor.module, kOutlierSuffixes[1]), type, {rows, count}, bytes_of(values, type)});
  }

  const LoadedModel& model_;
  const FolderPlan& plan_;
  const FolderForm& form_;
  const Calibration& calibration_;
  LayerWalk& walk_;
  ThreadPool& pool_;
  const CalibrationWatch& watch_;
  int layer_ = 0;
  std::map<const gguf::Tensor*, const FolderTensor*> known_;
  std::map<const std::byte*, InputStatistics> inputs_;
  std::vector<NewTensor> out_;
};

Status write_layer(const std::string& path, const std::string& job, std::span<const NewTensor> tensors) {
  safetensors::Writer writer;
  writer.add_metadata("ashlar.job", job);
  for (const NewTensor& t : tensors)
    writer.add(t.name, t.type, t.shape, [&t]() -> Result<std::span<const std::byte>> { return t.bytes; });
  auto out = TRY(NewFile::create(path, true));
  TRY(writer.give([&](std::string_view bytes) { return out.write(bytes); }));
  return out.commit();
}

// A layer that an earlier run has made. Empty: there is none.
Result<std::optional<safetensors::Checkpoint>> made_before(const std::string& path, const std::string& job) {
  std::error_code unknown;
  if (!fs::exists(path, unknown)) return std::nullopt;
  auto file = TRY(safetensors::Checkpoint::open(path));
  for (const auto& [key, text] : file.metadata())
    if (key == "ashlar.job" && text == job) return file;
  return Error{Code::invalid, fmt::format("{}: belongs to other work; without --resume it is begun anew", path)};
}

// Puts a layer's new tensors in place of the model's, in the types that we run them in.
class Replacer {
 public:
  Replacer(const LoadedModel& model, const FolderPlan& plan, LayerWalk& walk)
      : model_(model), plan_(plan), walk_(walk) {}

  Status replace(const safetensors::Checkpoint& layer) {
    const auto config = TRY(read_quantization_config(plan_.config, "", "", plan_.folder));
    auto checkpoint = TRY(read_quantized_checkpoint(layer, *config, RowsFor::products));
    for (QuantizedMatrix& matrix : checkpoint.matrices)
      TRY(replace(Stored{.name = plain_name(matrix.name),
                         .type = matrix.type,
                         .shape = {matrix.rows, matrix.columns},
                         .from = std::move(matrix.from),
                         .make = std::move(matrix.make),
                         .order = std::move(matrix.order)}));
    for (const safetensors::Tensor* plain : checkpoint.plain)
      TRY(replace(Stored{.name = plain_name(plain->name),
                         .type = plain->type == Type::f32   ? kernels::Type::f32
                                 : plain->type == Type::f16 ? kernels::Type::f16
                                                            : kernels::Type::bf16,
                         .shape = plain->shape,
                         .from = {plain}}));
    return {};
  }

 private:
  Status replace(Stored stored) {
    CHECK(stored.order.empty(), "our columns keep their order");
    const Renamed renamed = TRY(rename(std::move(stored), model_.shape, plan_.folder));
    const gguf::Tensor* tensor = walk_.find(renamed.name);
    const gguf::Tensor made = renamed.tensor();
    if (tensor == nullptr || tensor->dims != made.dims)
      return Error{Code::corrupt,
                   fmt::format("{}: tensor {} is not one that is wanted", plan_.folder, gguf::quoted(renamed.name))};
    std::vector<std::byte> bytes(made.bytes());
    TRY(renamed.make(bytes));
    walk_.replace(*tensor, renamed.type, std::move(bytes));
    return {};
  }

  const LoadedModel& model_;
  const FolderPlan& plan_;
  LayerWalk& walk_;
};

}  // namespace

MadeTensors FolderLayers::tensors() const {
  MadeTensors out;
  for (const safetensors::Checkpoint& file : files)
    for (const safetensors::Tensor& tensor : file.tensors()) out[tensor.name] = &tensor;
  return out;
}

Result<FolderLayers> make_folder_layers(const LoadedModel& model, const FolderPlan& plan,
                                        const Calibration& calibration, ThreadPool& pool,
                                        const CalibrationWatch& watch) {
  const std::string job = job_of(model, plan, calibration);
  std::error_code failed;
  fs::create_directories(calibration.folder, failed);
  if (failed) return Error{Code::io, fmt::format("{}: cannot be made: {}", calibration.folder, failed.message())};
  const auto walk = TRY(LayerWalk::create(model, calibration.tokens, calibration.window, pool));
  FolderLayerMaker maker(model, plan, calibration, *walk, pool, watch);
  Replacer replacer(model, plan, *walk);
  FolderLayers out;
  for (int layer = 0; layer < walk->layers(); ++layer) {
    const std::string path = layer_path(calibration.folder, layer);
    TRY(walk->load(layer));
    std::optional<safetensors::Checkpoint> file;
    if (calibration.resume) file = TRY(made_before(path, job));
    if (!file) {
      const auto tensors = TRY(maker.make(layer));
      TRY(write_layer(path, job, tensors));
      file = TRY(safetensors::Checkpoint::open(path));
    }
    for (const safetensors::Tensor& tensor : file->tensors()) {
      if (tensor.name.ends_with(kOutlierSuffixes[0])) out.outliers += tensor.elements();
      if (tensor.type == Type::i8 && tensor.shape.size() == 2) out.columns += tensor.shape[1];
    }
    out.files.push_back(std::move(*file));
    if (layer + 1 == walk->layers()) break;
    // What LLM.int8() loses is too little to measure the next layer's outliers anew.
    if (plan.form.method != Method::llm_int8) {
      TRY(replacer.replace(out.files.back()));
      TRY(walk->reload());
    }
    double windows = 0;
    TRY(walk->pass(true, {}, [&] {
      return watch(
          (layer + 0.8 + 0.2 * windows++ * calibration.window / static_cast<double>(walk->tokens())) / walk->layers(),
          layer);
    }));
  }
  return out;
}

void remove_folder_layers(const std::string& folder, int layers) {
  std::error_code unknown;
  for (int layer = 0; layer < layers; ++layer) fs::remove(layer_path(folder, layer), unknown);
  fs::remove(folder, unknown);  // fails where something else lies in it
}

}  // namespace ashlar::models
