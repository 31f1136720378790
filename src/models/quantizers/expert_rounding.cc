#include "models/quantizers/expert_rounding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "kernels/blocks.h"
#include "models/quantizers/dense.h"

namespace ashlar::models {
namespace {

constexpr std::size_t kMostFloats = 256 << 20;  // of mean products that are kept at once
constexpr int kColumnsOfARow = 4;               // GPTQ wants a row for each so many columns

class ExpertRounding {
 public:
  ExpertRounding(LayerWalk& walk, const std::function<kernels::Type(const gguf::Tensor&)>& type_of,
                 const GptqOptions* options, ThreadPool& pool, const LayerWalk::Look& look)
      : walk_(walk), type_of_(type_of), options_(options), pool_(pool), look_(look) {}

  Result<RoundedExperts> run() {
    for (const LayerWalk::Product& product : walk_.experts())
      for (const gguf::Tensor* tensor : product.tensors) TRY(read(*tensor));
    std::span<const LayerWalk::Product> rest = walk_.experts();
    while (!rest.empty() && !out_.tensors.empty()) {
      std::size_t count = 0, floats = 0;
      while (count < rest.size() && (count == 0 || floats + square(rest[count]) <= kMostFloats))
        floats += square(rest[count++]);
      TRY(round(rest.first(count)));
      rest = rest.subspan(count);
    }
    return std::move(out_);
  }

 private:
  struct Seen {
    ProductSum gram;
    std::vector<double> squares;
    int rows = 0;
  };

  // Floats of its mean products.
  std::size_t square(const LayerWalk::Product& product) const {
    if (options_ == nullptr) return 0;
    const auto n = static_cast<std::size_t>(product.columns());
    return n * n;
  }

  RoundedExperts::Tensor* made(const gguf::Tensor& tensor) {
    const auto found = std::ranges::find(out_.tensors, &tensor, &RoundedExperts::Tensor::tensor);
    return found == out_.tensors.end() ? nullptr : &*found;
  }

  Status read(const gguf::Tensor& tensor) {
    const kernels::Type type = type_of_(tensor);
    if (kernels::type_info(type).block == 1 || made(tensor) != nullptr) return {};
    sources_[&tensor] = TRY(walk_.file().read(tensor, rooms_[&tensor]));
    out_.tensors.push_back({&tensor, std::vector<std::byte>(kernels::row_bytes(type, tensor.elements()))});
    return {};
  }

  Status round(std::span<const LayerWalk::Product> products) {
    std::map<const std::byte*, Seen> seen;
    for (const LayerWalk::Product& product : products)
      seen.try_emplace(product.packed,
                       Seen{.gram = ProductSum(options_ != nullptr ? product.columns() : 0),
                            .squares = std::vector<double>(static_cast<std::size_t>(product.columns()))});
    Status failed;
    TRY(walk_.pass(false, {}, look_, [&](const LayerWalk::Product& product, float* h, std::size_t ld, int rows) {
      const auto found = seen.find(product.packed);
      if (found == seen.end() || !failed) return;
      Seen& s = found->second;
      s.rows += rows;
      for (int r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < s.squares.size(); ++c) {
          const double x = h[static_cast<std::size_t>(r) * ld + c];
          s.squares[c] += x * x;
        }
      if (options_ != nullptr) failed = s.gram.add(h, ld, rows, pool_);
    }));
    TRY(std::move(failed));
    for (const LayerWalk::Product& product : products) TRY(round(product, seen.at(product.packed)));
    return {};
  }

  Status round(const LayerWalk::Product& product, Seen& seen) {
    ++out_.products;
    const bool few = seen.rows * kColumnsOfARow < product.columns();
    if (seen.rows == 0)
      ++out_.unseen;
    else if (few && options_ != nullptr)
      ++out_.few;
    std::vector<float> weights;
    for (const double square : seen.squares)
      if (seen.rows > 0) weights.push_back(static_cast<float>(square / seen.rows));
    std::optional<Curvature> curvature;
    if (options_ != nullptr && !few) {
      auto h = TRY(seen.gram.mean(pool_));
      curvature = TRY(Curvature::create(std::move(h), product.columns(), *options_, pool_));
    }
    for (const gguf::Tensor* tensor : product.tensors) {
      RoundedExperts::Tensor* to = made(*tensor);
      if (to == nullptr) continue;
      const std::vector<float> w = TRY(values(*tensor, product.expert));
      const kernels::Type type = type_of_(*tensor);
      const std::size_t bytes = to->bytes.size() / static_cast<std::size_t>(tensor->dims[2]);
      const auto room = std::span(to->bytes).subspan(bytes * static_cast<std::size_t>(product.expert), bytes);
      if (curvature)
        std::ranges::copy(TRY(gptq(w, {}, type, *curvature, pool_)), room.begin());
      else
        nearest(w, type, tensor->columns(), weights, room);
    }
    seen = {.gram = ProductSum(0), .squares = {}};
    return {};
  }

  Result<std::vector<float>> values(const gguf::Tensor& tensor, int expert) const {
    const std::int64_t count = tensor.columns() * tensor.dims[1];
    std::vector<float> out(static_cast<std::size_t>(count));
    kernels::dequantize_row(tensor.type, sources_.at(&tensor).data() + kernels::row_bytes(tensor.type, count * expert),
                            out.data(), count);
    if (std::ranges::all_of(out, [](float x) { return std::isfinite(x); })) return out;
    return Error{Code::corrupt, fmt::format("{}: tensor {} holds a value that is not finite", walk_.file().path(),
                                            gguf::quoted(tensor.name))};
  }

  void nearest(std::span<const float> w, kernels::Type type, std::int64_t columns, std::span<const float> weights,
               std::span<std::byte> out) const {
    const std::size_t row = kernels::row_bytes(type, columns);
    pool_.for_each(static_cast<int>(out.size() / row), [&](int r, int) {
      kernels::quantize_row(type, w.data() + r * columns, out.data() + row * static_cast<std::size_t>(r), columns,
                            weights.empty() ? nullptr : weights.data());
    });
  }

  LayerWalk& walk_;
  const std::function<kernels::Type(const gguf::Tensor&)>& type_of_;
  const GptqOptions* options_;
  ThreadPool& pool_;
  const LayerWalk::Look& look_;
  std::map<const gguf::Tensor*, std::vector<std::byte>> rooms_;
  std::map<const gguf::Tensor*, std::span<const std::byte>> sources_;
  RoundedExperts out_;
};

}  // namespace

Result<RoundedExperts> round_experts(LayerWalk& walk, const std::function<kernels::Type(const gguf::Tensor&)>& type_of,
                                     const GptqOptions* gptq, ThreadPool& pool, const LayerWalk::Look& look) {
  return ExpertRounding(walk, type_of, gptq, pool, look).run();
}

}  // namespace ashlar::models
