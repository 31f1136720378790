// From the rows of a text to what is asked of it: one vector, or the scores of a classifier.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/matrix.h"
#include "models/tensors.h"

namespace ashlar::models {

// Which row stands for a text. The numbers are those of GGUF's pooling_type.
enum class Pooling {
  none = 0,
  mean = 1,  // the mean of all rows
  cls = 2,   // the first
  last = 3,
  rank = 4,  // the first (of a decoder, the last), and then the classifier's scores
};
std::optional<Pooling> pooling_of(std::int64_t number);
std::string_view name_of(Pooling pooling);

// out[width] from the rows of one text, `ld` floats apart. Not of Pooling::none.
void pool_rows(Pooling pooling, const float* rows, std::size_t ld, int count, std::span<float> out);

// scores = W_out tanh(W x + b) + b_out; a file may lack either of the two matrices, and the tanh goes with the first.
struct ClassifierHead {
  kernels::PackedMatrix dense;  // [width, width], or the last one: [outputs, width]
  std::vector<float> dense_bias;
  kernels::PackedMatrix out;  // [outputs, width]
  std::vector<float> out_bias;

  bool empty() const { return outputs() == 0; }
  int outputs() const { return out.rows() > 0 ? out.rows() : dense.rows(); }
  // x [count, width] -> out [count, outputs()]. Each row's result depends on that row alone.
  void apply(const float* x, int count, std::span<float> scores, ThreadPool& pool) const;
};

// More scores than any classifier of texts has.
inline constexpr int kMostLabels = 1 << 16;

// Lists the tensors cls.* that the source has; nothing where it has none.
void list_head(const TensorSource& source, int width, ClassifierHead& head, TensorList& list);

}  // namespace ashlar::models
