#include "models/quantizers/calibrated.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/log.h"
#include "kernels/blocks.h"
#include "models/formats/gguf_writer.h"
#include "models/formats/new_file.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/expert_rounding.h"
#include "models/quantizers/input_measure.h"
#include "models/quantizers/layer_walk.h"
#include "models/quantizers/scaling.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;

constexpr std::pair<std::string_view, Method> kMethods[] = {{"rtn", Method::rtn},
                                                            {"gptq", Method::gptq},
                                                            {"awq", Method::awq},
                                                            {"smoothquant", Method::smoothquant},
                                                            {"llm.int8", Method::llm_int8}};

std::string layer_path(const std::string& folder, int layer) {
  return fmt::format("{}/layer-{:04}.gguf", folder, layer);
}

// FNV-1a, to tell one text from another.
std::uint64_t hash_of(std::span<const std::int32_t> tokens) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : std::as_bytes(tokens)) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

// What two runs agree in when one may go on where the other stopped.
std::string job_of(const LoadedModel& model, const QuantizePlan& plan, const Calibration& c) {
  return fmt::format("{} {} parameters {} bytes, {} {}, damping {} order {}, {} tokens {:016x} in windows of {}",
                     model.facts.name, model.facts.parameters, model.facts.bytes.count, name_of(c.method),
                     plan.mix->name, c.gptq.damping, c.gptq.activation_order, c.tokens.size(), hash_of(c.tokens),
                     c.window);
}

struct NewTensor {
  const gguf::Tensor* tensor;
  Type type;
  std::vector<std::byte> bytes;
};

Status check_finite(const LoadedModel& model, const gguf::Tensor& tensor, std::span<const float> w) {
  for (const float v : w)
    if (!std::isfinite(v))
      return Error{Code::corrupt, fmt::format("{}: tensor {} holds a value that is not finite", model.file->path(),
                                              gguf::quoted(tensor.name))};
  return {};
}

// One layer at a time.
class LayerMaker {
 public:
  LayerMaker(const LoadedModel& model, const QuantizePlan& plan, const Calibration& calibration, LayerWalk& walk,
             ThreadPool& pool, const CalibrationWatch& watch)
      : model_(model), plan_(plan), calibration_(calibration), walk_(walk), pool_(pool), watch_(watch) {}

  Result<std::vector<NewTensor>> make(int layer) {
    layer_ = layer;
    for (const LayerWalk::Product& product : walk_.products())
      for (const gguf::Tensor* tensor : product.tensors) {
        const auto w = TRY(floats_of(*model_.file, *tensor, pool_));
        TRY(check_finite(model_, *tensor, w));
      }
    TRY(measure());
    std::vector<NewTensor> out;
    if (calibration_.method == Method::gptq)
      TRY(compensate(out));
    else
      TRY(rescale(out));
    TRY(round_experts_too(out));
    return out;
  }
  // How much of a layer's work a pass over the text is, and where this one stands.
  Status look(double within) { return watch_((layer_ + within) / walk_.layers(), layer_); }

 private:
  Type type_of(const gguf::Tensor& tensor) const {
    return std::ranges::find(plan_.tensors, &tensor, &TensorChange::tensor)->type;
  }
  bool rounded(const gguf::Tensor& tensor) const { return kernels::type_info(type_of(tensor)).block > 1; }

  Status measure() {
    InputMeasure measure(walk_.products(), walk_.tokens(), calibration_.method != Method::smoothquant, pool_);
    const LayerWalk::See see = [&](const LayerWalk::Product& product, float* h, std::size_t ld, int rows) {
      measure.see(product, h, ld, rows);
    };
    double windows = 0;
    TRY(walk_.pass(false, see,
                   [&] { return look(0.4 * windows++ * calibration_.window / static_cast<double>(walk_.tokens())); }));
    inputs_ = TRY(measure.finish());
    return {};
  }

  Status compensate(std::vector<NewTensor>& out) {
    double done = 0;
    for (const LayerWalk::Product& product : walk_.products()) {
      TRY(look(0.4 + 0.4 * done++ / static_cast<double>(walk_.products().size())));
      if (std::ranges::none_of(product.tensors, [&](const gguf::Tensor* t) { return rounded(*t); })) continue;
      const auto curvature =
          TRY(Curvature::create(std::move(inputs_[product.packed].h), product.columns(), calibration_.gptq, pool_));
      for (const gguf::Tensor* tensor : product.tensors) {
        if (!rounded(*tensor)) continue;
        const Type type = type_of(*tensor);
        const auto w = TRY(floats_of(*model_.file, *tensor, pool_));
        out.push_back({tensor, type, TRY(gptq(w, type, curvature, pool_))});
      }
    }
    return {};
  }

  // Scales first, for the sources of some are tensors of others; then all that changed is rounded.
  Status rescale(std::vector<NewTensor>& out) {
    LayerFloats floats(walk_, layer_, model_.shape, pool_);
    const RoundRow round = [&](const gguf::Tensor& tensor, std::span<float> row, std::span<const float> weights) {
      const Type type = type_of(tensor);
      std::vector<std::byte> bytes(kernels::row_bytes(type, tensor.columns()));
      kernels::quantize_row(type, row.data(), bytes.data(), tensor.columns(), weights.data());
      kernels::dequantize_row(type, bytes.data(), row.data(), tensor.columns());
    };
    std::map<const gguf::Tensor*, std::vector<float>> importance;
    double done = 0;
    for (const LayerWalk::Product& product : walk_.products()) {
      TRY(look(0.4 + 0.4 * done++ / static_cast<double>(walk_.products().size())));
      if (std::ranges::none_of(product.tensors, [&](const gguf::Tensor* t) { return rounded(*t); })) continue;
      InputStatistics& input = inputs_[product.packed];
      const std::vector<int> sharing = floats.sharing(product);
      const auto n = static_cast<std::size_t>(product.columns());
      std::vector<float> scale(n, 1.0f);
      const bool smooth = calibration_.method == Method::smoothquant;
      if (!sharing.empty() && (!smooth || product.tensors.size() > 1)) {
        scale = smooth ? smooth_scales(product, floats, input, sharing)
                       : TRY(awq_scales(product, floats, input, sharing, round, pool_));
        floats.scale(product, scale);
      }
      for (const gguf::Tensor* tensor : product.tensors) {
        floats.of(*tensor);
        std::vector<float>& weights = importance[tensor];
        for (std::size_t i = 0; i < n && !smooth; ++i) weights.push_back(input.h[i * (n + 1)] / (scale[i] * scale[i]));
      }
      input = {};
    }
    for (const auto& [tensor, weights] : importance)
      out.push_back(rounded_tensor(*tensor, type_of(*tensor), floats.of(*tensor), weights));
    for (const gguf::Tensor* tensor : floats.changed())
      if (!importance.contains(tensor))
        out.push_back(rounded_tensor(*tensor, type_of(*tensor), floats.of(*tensor), {}));
    return {};
  }

  // SmoothQuant does not look at experts.
  Status round_experts_too(std::vector<NewTensor>& out) {
    if (walk_.experts().empty() || calibration_.method == Method::smoothquant) return {};
    const bool compensates = calibration_.method == Method::gptq;
    auto made = TRY(round_experts(
        walk_, [&](const gguf::Tensor& tensor) { return type_of(tensor); }, compensates ? &calibration_.gptq : nullptr,
        pool_, [&] { return look(0.8); }));
    for (auto& [tensor, bytes] : made.tensors) out.push_back({tensor, type_of(*tensor), std::move(bytes)});
    if (made.few + made.unseen > 0)
      log::warn("experts_seen_too_little", {{"layer", layer_},
                                            {"matrices", made.products},
                                            {"weighed_by_mean_squares", made.few},
                                            {"rounded_to_nearest", made.unseen}});
    return {};
  }

  NewTensor rounded_tensor(const gguf::Tensor& tensor, Type type, std::span<const float> w,
                           std::span<const float> weights) const {
    const std::size_t row = kernels::row_bytes(type, tensor.columns());
    NewTensor out{&tensor, type, std::vector<std::byte>(row * static_cast<std::size_t>(tensor.rows()))};
    pool_.for_each(static_cast<int>(tensor.rows()), [&](int r, int) {
      kernels::quantize_row(type, w.data() + std::int64_t{r} * tensor.columns(),
                            out.bytes.data() + row * static_cast<std::size_t>(r), tensor.columns(),
                            weights.empty() ? nullptr : weights.data());
    });
    return out;
  }

  const LoadedModel& model_;
  const QuantizePlan& plan_;
  const Calibration& calibration_;
  LayerWalk& walk_;
  ThreadPool& pool_;
  const CalibrationWatch& watch_;
  int layer_ = 0;
  std::map<const std::byte*, InputStatistics> inputs_;
};

Status write_layer(const std::string& path, const std::string& job, std::span<const NewTensor> tensors) {
  gguf::Writer writer;
  writer.add("general.type", "ashlar.layer");
  writer.add("ashlar.job", job);
  for (const NewTensor& t : tensors)
    writer.add_tensor(t.tensor->name, t.type, {t.tensor->dims.begin(), t.tensor->dims.begin() + t.tensor->rank},
                      t.bytes);
  auto out = TRY(NewFile::create(path, true));
  TRY(writer.give([&](std::string_view bytes) { return out.write(bytes); }));
  return out.commit();
}

// A layer that an earlier run has made. Empty: there is none.
Result<std::optional<gguf::File>> made_before(const std::string& path, const std::string& job) {
  std::error_code unknown;
  if (!fs::exists(path, unknown)) return std::nullopt;
  auto file = TRY(gguf::File::open(path));
  const auto found = TRY(file.get<std::string_view>("ashlar.job", ""));
  if (found == job) return file;
  return Error{Code::invalid, fmt::format("{}: belongs to other work ({}); without --resume it is begun anew", path,
                                          gguf::quoted(found))};
}

}  // namespace

Result<Method> method_of(std::string_view name) {
  std::vector<std::string_view> names;
  for (const auto& [known, method] : kMethods) {
    if (known == name) return method;
    names.push_back(known);
  }
  return Error{Code::invalid, fmt::format("--method: no method is called {}; known are {}", gguf::quoted(name),
                                          fmt::join(names, ", "))};
}

std::string_view name_of(Method method) {
  return std::ranges::find(kMethods, method, [](auto& m) { return m.second; })->first;
}

Result<MadeLayers> make_layers(const LoadedModel& model, QuantizePlan& plan, const Calibration& calibration,
                               ThreadPool& pool, const CalibrationWatch& watch) {
  const std::string job = job_of(model, plan, calibration);
  std::error_code failed;
  fs::create_directories(calibration.folder, failed);
  if (failed) return Error{Code::io, fmt::format("{}: cannot be made: {}", calibration.folder, failed.message())};
  const auto walk = TRY(LayerWalk::create(model, calibration.tokens, calibration.window, pool));
  LayerMaker maker(model, plan, calibration, *walk, pool, watch);
  MadeLayers out;
  for (int layer = 0; layer < walk->layers(); ++layer) {
    const std::string path = layer_path(calibration.folder, layer);
    TRY(walk->load(layer));
    std::optional<gguf::File> file;
    if (calibration.resume) file = TRY(made_before(path, job));
    if (!file) {
      const auto tensors = TRY(maker.make(layer));
      TRY(write_layer(path, job, tensors));
      file = TRY(gguf::File::open(path));
    }
    for (const gguf::Tensor& tensor : file->tensors()) {
      const auto change =
          std::ranges::find(plan.tensors, tensor.name, [](const TensorChange& c) { return c.tensor->name; });
      if (change == plan.tensors.end() || change->type != tensor.type || change->bytes() != tensor.data.size())
        return Error{Code::corrupt,
                     fmt::format("{}: tensor {} is not one that is wanted", path, gguf::quoted(tensor.name))};
      change->made = tensor.data;
      walk->replace(*change->tensor, tensor.type, {tensor.data.begin(), tensor.data.end()});
    }
    out.push_back(std::move(*file));
    if (layer + 1 == walk->layers()) break;
    TRY(walk->reload());
    double windows = 0;
    TRY(walk->pass(true, {}, [&] {
      return watch(
          (layer + 0.8 + 0.2 * windows++ * calibration.window / static_cast<double>(walk->tokens())) / walk->layers(),
          layer);
    }));
  }
  return out;
}

void remove_layers(const std::string& folder, int layers) {
  std::error_code unknown;
  for (int layer = 0; layer < layers; ++layer) fs::remove(layer_path(folder, layer), unknown);
  fs::remove(folder, unknown);  // fails where something else lies in it
}

}  // namespace ashlar::models
