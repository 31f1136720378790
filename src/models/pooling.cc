#include "models/pooling.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.h"

namespace ashlar::models {
namespace {

std::size_t size(int n) { return static_cast<std::size_t>(n); }

// y [count, W.rows()] = W x + b
std::vector<float> multiply(const kernels::PackedMatrix& w, std::span<const float> bias, const float* x, int count,
                            ThreadPool& pool) {
  kernels::Activations activations;
  activations.assign(x, size(w.columns()), count, w.columns(), w.forms(), pool);
  std::vector<float> y(size(count) * size(w.rows()));
  kernels::matmul(w, activations, y.data(), size(w.rows()), pool);
  if (!bias.empty()) kernels::add_bias(y.data(), size(w.rows()), bias.data(), count, w.rows(), pool);
  return y;
}

void list_layer(const TensorSource& source, const std::string& name, int width, int most, kernels::PackedMatrix& matrix,
                std::vector<float>& bias, TensorList& list) {
  const gguf::Tensor* tensor = source.find(name + ".weight");
  if (tensor == nullptr) return;
  const int rows = static_cast<int>(std::min<std::int64_t>(tensor->rows(), most));
  list.matrix({{name + ".weight", rows}}, width, matrix);
  list.optional_vector({{name + ".bias", rows}}, bias);
}

}  // namespace

std::optional<Pooling> pooling_of(std::int64_t number) {
  if (number < 0 || number > static_cast<int>(Pooling::rank)) return std::nullopt;
  return static_cast<Pooling>(number);
}

std::string_view name_of(Pooling pooling) {
  constexpr std::string_view kNames[] = {"none", "mean", "cls", "last", "rank"};
  return kNames[static_cast<int>(pooling)];
}

void pool_rows(Pooling pooling, const float* rows, std::size_t ld, int count, std::span<float> out) {
  CHECK(count > 0 && pooling != Pooling::none, "a text has rows, one of which or whose mean stands for it");
  if (pooling != Pooling::mean) {
    const std::size_t row = pooling == Pooling::last ? size(count - 1) : 0;
    std::copy_n(rows + row * ld, out.size(), out.begin());
    return;
  }
  // In double: the mean of a long text loses nothing.
  for (std::size_t i = 0; i < out.size(); ++i) {
    double sum = 0;
    for (int row = 0; row < count; ++row) sum += static_cast<double>(rows[size(row) * ld + i]);
    out[i] = static_cast<float>(sum / count);
  }
}

void ClassifierHead::apply(const float* x, int count, std::span<float> scores, ThreadPool& pool) const {
  std::vector<float> hidden;
  if (dense.rows() > 0) {
    hidden = multiply(dense, dense_bias, x, count, pool);
    for (float& value : hidden) value = std::tanh(value);
    x = hidden.data();
  }
  if (out.rows() > 0) hidden = multiply(out, out_bias, x, count, pool);
  CHECK(scores.size() == hidden.size(), "a score for each text and output");
  std::ranges::copy(hidden, scores.begin());
}

void list_head(const TensorSource& source, int width, ClassifierHead& head, TensorList& list) {
  // With an output behind it, the first matrix gives what that reads.
  const bool two = source.find("cls.output.weight") != nullptr;
  list_layer(source, "cls", width, two ? width : kMostLabels, head.dense, head.dense_bias, list);
  list_layer(source, "cls.output", width, kMostLabels, head.out, head.out_bias, list);
}

}  // namespace ashlar::models
