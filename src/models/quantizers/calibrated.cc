#include "models/quantizers/calibrated.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>

#include "base/log.h"
#include "kernels/blocks.h"
#include "models/formats/gguf_writer.h"
#include "models/formats/new_file.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/descent.h"
#include "models/quantizers/expert_rounding.h"
#include "models/quantizers/input_measure.h"
#include "models/quantizers/layer_walk.h"
#include "models/quantizers/product_inputs.h"
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
  // `plain`: over the model as it is; not for SmoothQuant.
  LayerMaker(const LoadedModel& model, const QuantizePlan& plan, const Calibration& calibration, LayerWalk& walk,
             LayerWalk* plain, ThreadPool& pool, const CalibrationWatch& watch)
      : model_(model), plan_(plan), calibration_(calibration), walk_(walk), plain_(plain), pool_(pool), watch_(watch) {}

  Result<std::vector<NewTensor>> make(int layer) {
    layer_ = layer;
    for (const LayerWalk::Product& product : walk_.products())
      for (const gguf::Tensor* tensor : product.tensors) {
        const auto w = TRY(floats_of(*model_.file, *tensor, pool_));
        TRY(check_finite(model_, *tensor, w));
      }
    made_.clear();
    scales_.assign(walk_.products().size(), {});
    floats_.emplace(walk_, layer_, model_.shape, pool_);
    if (calibration_.method != Method::gptq) {
      TRY(measure());
      TRY(rescale());
    }
    if (calibration_.method == Method::smoothquant)
      round_to_nearest();
    else
      TRY(round_in_order());
    TRY(round_experts_too());
    return std::move(made_);
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
    TRY(walk_.pass(false, see, [&] { return look(0.2 * windows++ / static_cast<double>(walk_.windows())); }));
    inputs_ = TRY(measure.finish());
    return {};
  }

  // Scales for the columns of products: the sources of some are tensors of others.
  Status rescale() {
    const RoundRow round = [&](const gguf::Tensor& tensor, std::span<float> row, std::span<const float> weights) {
      const Type type = type_of(tensor);
      std::vector<std::byte> bytes(kernels::row_bytes(type, tensor.columns()));
      kernels::quantize_row(type, row.data(), bytes.data(), tensor.columns(), weights.data());
      kernels::dequantize_row(type, bytes.data(), row.data(), tensor.columns());
    };
    const bool smooth = calibration_.method == Method::smoothquant;
    for (std::size_t i = 0; i < scales_.size(); ++i) {
      TRY(look(0.2 + 0.1 * static_cast<double>(i) / static_cast<double>(scales_.size())));
      const LayerWalk::Product& product = walk_.products()[i];
      InputStatistics input = std::move(inputs_[product.packed]);
      const std::vector<int> sharing = floats_->sharing(product);
      if (!to_round(product) || sharing.empty() || (smooth && product.tensors.size() == 1)) continue;
      scales_[i] = smooth ? smooth_scales(product, *floats_, input, sharing)
                          : TRY(awq_scales(product, *floats_, input, sharing, round, pool_));
      floats_->scale(product, scales_[i]);
    }
    return {};
  }

  void round_to_nearest() {
    std::vector<const gguf::Tensor*> all(floats_->changed().begin(), floats_->changed().end());
    for (const LayerWalk::Product& product : walk_.products())
      for (const gguf::Tensor* tensor : product.tensors)
        if (std::ranges::find(all, tensor) == all.end()) all.push_back(tensor);
    for (const gguf::Tensor* tensor : all) put(*tensor, nearest(*tensor, {}));
  }

  // Products in the order in which they are used: each meets what those before it have become.
  Status round_in_order() {
    for (const gguf::Tensor* tensor : floats_->changed())
      if (!rounded(*tensor)) put(*tensor, nearest(*tensor, {}));
    if (!made_.empty()) TRY(walk_.reload());
    const auto count = static_cast<double>(scales_.size());
    for (std::size_t i = 0; i < scales_.size(); ++i) {
      const LayerWalk::Product product = walk_.products()[i];
      if (!to_round(product)) continue;
      std::vector<kernels::RawMatrix> w;
      std::vector<std::vector<std::byte>> rooms(product.tensors.size());  // of tensors that lie in no file
      for (const gguf::Tensor* tensor : product.tensors) w.push_back(TRY(raw(*tensor, rooms[w.size()])));
      double windows = 0;
      const ProductNow now{i, scales_[i], w};
      ProductInputs inputs = TRY(measure_inputs(walk_, *plain_, now, pool_, [&] {
        return look(0.3 +
                    0.5 * (static_cast<double>(i) + 0.5 * windows++ / static_cast<double>(walk_.windows())) / count);
      }));
      TRY(round_product(product, inputs));
      TRY(walk_.reload());
    }
    return {};
  }

  Status round_product(const LayerWalk::Product& product, ProductInputs& inputs) {
    const bool columns = calibration_.method == Method::gptq;
    std::optional<Curvature> curvature;
    if (columns)
      curvature = TRY(Curvature::create(std::move(inputs.h), product.columns(), calibration_.gptq, pool_));
    else
      damp(inputs.h, static_cast<std::size_t>(product.columns()));
    for (const gguf::Tensor* tensor : product.tensors) {
      if (!rounded(*tensor)) continue;
      const std::vector<float>& w = floats_->of(*tensor);
      const std::vector<float> b = TRY(inputs.pull(product, *tensor, w, pool_));
      put(*tensor,
          columns ? TRY(gptq(w, b, type_of(*tensor), *curvature, pool_)) : TRY(descended(*tensor, inputs.h, b)));
      floats_->drop(*tensor);
    }
    return {};
  }

  // SmoothQuant does not look at experts.
  Status round_experts_too() {
    if (walk_.experts().empty() || calibration_.method == Method::smoothquant) return {};
    const bool compensates = calibration_.method == Method::gptq;
    auto made = TRY(round_experts(
        walk_, [&](const gguf::Tensor& tensor) { return type_of(tensor); }, compensates ? &calibration_.gptq : nullptr,
        pool_, [&] { return look(0.8); }));
    for (auto& [tensor, bytes] : made.tensors) put(*tensor, std::move(bytes));
    if (made.few + made.unseen > 0)
      log::warn("experts_seen_too_little", {{"layer", layer_},
                                            {"matrices", made.products},
                                            {"weighed_by_mean_squares", made.few},
                                            {"rounded_to_nearest", made.unseen}});
    return {};
  }

  // As GPTQ does it: what the text shows of little must not be believed too much.
  void damp(std::vector<float>& h, std::size_t n) const {
    double sum = 0;
    for (std::size_t i = 0; i < h.size(); i += n + 1) sum += h[i];
    for (std::size_t i = 0; i < h.size(); i += n + 1)
      h[i] += calibration_.gptq.damping * static_cast<float>(sum / static_cast<double>(n));
  }

  bool to_round(const LayerWalk::Product& product) const {
    return std::ranges::any_of(product.tensors, [&](const gguf::Tensor* tensor) { return rounded(*tensor); });
  }

  // A tensor with its values as they are now.
  Result<kernels::RawMatrix> raw(const gguf::Tensor& tensor, std::vector<std::byte>& room) {
    kernels::RawMatrix out{
        .type = tensor.type, .rows = static_cast<int>(tensor.rows()), .columns = static_cast<int>(tensor.columns())};
    if (std::ranges::find(floats_->changed(), &tensor) == floats_->changed().end()) {
      out.data = TRY(model_.file->read(tensor, room)).data();
    } else {
      out.type = Type::f32;
      out.data = reinterpret_cast<const std::byte*>(floats_->of(tensor).data());
    }
    return out;
  }

  // Each block by itself. `weights`: how much each column's error counts, or none.
  std::vector<std::byte> nearest(const gguf::Tensor& tensor, std::span<const float> weights) {
    const Type type = type_of(tensor);
    const std::vector<float>& w = floats_->of(tensor);
    const std::size_t row = kernels::row_bytes(type, tensor.columns());
    std::vector<std::byte> out(row * static_cast<std::size_t>(tensor.rows()));
    pool_.for_each(static_cast<int>(tensor.rows()), [&](int r, int) {
      kernels::quantize_row(type, w.data() + std::int64_t{r} * tensor.columns(),
                            out.data() + row * static_cast<std::size_t>(r), tensor.columns(),
                            weights.empty() ? nullptr : weights.data());
    });
    return out;
  }

  // From there scales and codes go where the output's error is least: a longer way than from where GPTQ ends.
  Result<std::vector<std::byte>> descended(const gguf::Tensor& tensor, std::span<const float> h,
                                           std::span<const float> b) {
    constexpr int kRounds = 6;
    const int n = static_cast<int>(tensor.columns());
    std::vector<float> weights;
    for (std::size_t i = 0; i < h.size(); i += static_cast<std::size_t>(n) + 1) weights.push_back(h[i]);
    std::vector<std::byte> out = nearest(tensor, weights);
    const Pieces pieces = [&](int row, int rows, int column, int columns, float* to) {
      for (int r = row; r < row + rows; ++r, to += columns)
        std::copy_n(h.data() + static_cast<std::ptrdiff_t>(r) * n + column, columns, to);
    };
    Descent descent(type_of(tensor), pieces, n, pool_);
    TRY(descent.run(floats_->of(tensor), b, out, kRounds));
    return out;
  }

  void put(const gguf::Tensor& tensor, std::vector<std::byte> bytes) {
    made_.push_back({&tensor, type_of(tensor), std::move(bytes)});
    walk_.replace(tensor, made_.back().type, made_.back().bytes);
  }

  const LoadedModel& model_;
  const QuantizePlan& plan_;
  const Calibration& calibration_;
  LayerWalk& walk_;
  LayerWalk* plain_;
  ThreadPool& pool_;
  const CalibrationWatch& watch_;
  int layer_ = 0;
  std::map<const std::byte*, InputStatistics> inputs_;
  std::optional<LayerFloats> floats_;       // of the layer at work
  std::vector<std::vector<float>> scales_;  // by product; empty: its columns stay as they are
  std::vector<NewTensor> made_;
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
  std::unique_ptr<LayerWalk> plain;
  if (calibration.method != Method::smoothquant)
    plain = TRY(LayerWalk::create(model, calibration.tokens, calibration.window, pool));
  LayerMaker maker(model, plan, calibration, *walk, plain.get(), pool, watch);
  MadeLayers out;
  out.reserve(static_cast<std::size_t>(walk->layers()));  // the plan points to its files
  for (int layer = 0; layer < walk->layers(); ++layer) {
    const std::string path = layer_path(calibration.folder, layer);
    TRY(walk->load(layer));
    if (plain) TRY(plain->load(layer));
    std::optional<gguf::File> file;
    if (calibration.resume) file = TRY(made_before(path, job));
    if (!file) {
      const auto tensors = TRY(maker.make(layer));
      TRY(write_layer(path, job, tensors));
      file = TRY(gguf::File::open(path));
    }
    const gguf::File& made = out.emplace_back(std::move(*file));
    for (const gguf::Tensor& tensor : made.tensors()) {
      const auto change =
          std::ranges::find(plan.tensors, tensor.name, [](const TensorChange& c) { return c.tensor->name; });
      if (change == plan.tensors.end() || change->type != tensor.type || change->bytes() != tensor.data.size())
        return Error{Code::corrupt,
                     fmt::format("{}: tensor {} is not one that is wanted", path, gguf::quoted(tensor.name))};
      change->made = &tensor;
      change->made_in = &made;
      walk->replace(*change->tensor, tensor.type, {tensor.data.begin(), tensor.data.end()});
      made.release(tensor);
    }
    if (layer + 1 == walk->layers()) break;
    TRY(walk->reload());
    const auto advance = [&](LayerWalk& which, double begin, double share) {
      double windows = 0;
      return which.pass(true, {}, [&] {
        return watch((layer + begin + share * windows++ / static_cast<double>(which.windows())) / which.layers(),
                     layer);
      });
    };
    TRY(advance(*walk, 0.8, 0.1));
    if (plain) TRY(advance(*plain, 0.9, 0.1));
  }
  return out;
}

void remove_layers(const std::string& folder, int layers) {
  std::error_code unknown;
  for (int layer = 0; layer < layers; ++layer) fs::remove(layer_path(folder, layer), unknown);
  fs::remove(folder, unknown);  // fails where something else lies in it
}

}  // namespace ashlar::models
