// Low-rank adapters (LoRA, arXiv:2106.09685): beside a model's matrix W stand A [rank, columns] and B [rows, rank], and
// rows that ask for the adapter get y = W x + scale * B (A x).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/matrix.h"
#include "models/formats/lora_file.h"
#include "models/model.h"
#include "models/tensors.h"

namespace ashlar::models {

// Frozen after create(); any thread. Knows the model that it was made for by where its matrices lie.
class LoraAdapter final : public Adapter {
 public:
  // Beside rows [first_row, first_row + rows) of a matrix, in the layouts of kernels::NarrowJob. A rank that is odd is
  // filled up to an even one with zeros.
  struct Part {
    const std::uint16_t *a = nullptr, *b = nullptr;
    int columns = 0, rank = 0, rows = 0;
    int first_row = 0;
    float scale = 1;
  };

  // Packs the file's matrices on the caller's thread. invalid: it is for another base; corrupt: a value that is not
  // finite; exhausted: no memory.
  static Result<std::shared_ptr<const LoraAdapter>> create(const LoraFile& file, const TensorPlaces& places);

  // Empty: nothing stands beside the matrix. Of a stack of several, such as q, k and v, each has its own.
  std::span<const Part> beside(const kernels::PackedMatrix& matrix) const;
  Bytes bytes() const override { return {memory_.bytes()}; }

 private:
  std::unordered_map<const kernels::PackedMatrix*, std::vector<Part>> beside_;
  kernels::HugeMemory memory_;
};

// Adds what the adapters of some rows give. Rows of one adapter go together, whatever stands between them, at most
// kernels::kNarrowRows at once; a row's sums do not depend on the others. Owned by a Pass; its thread only. Takes
// memory with the first rows that have adapters.
class LoraRows {
 public:
  explicit LoraRows(ThreadPool& pool) : pool_(pool) {}

  // The adapters of the rows at hand: [rows], null where there is none.
  void set(std::span<const LoraAdapter* const> rows);
  bool any() const { return !runs_.empty(); }

  // y += scale * B (A x) for each row, x and y as the product with `matrix` had them.
  void add(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx, float* y, std::size_t ldy);

 private:
  // Rows of one adapter: [first, first + count) of order_.
  struct Run {
    const LoraAdapter* adapter;
    int first, count;
  };
  // Outputs [first, first + count) of a part's A, or of its B, for the rows of a run. What A gives, `rank` floats for
  // each row, begins at `middle`.
  struct Task {
    const Run* run;
    const LoraAdapter::Part* part;
    std::size_t middle;
    int first, count;
  };
  void multiply_a(const Task& task, const float* x, std::size_t ldx);
  void multiply_b(const Task& task, float* y, std::size_t ldy);

  ThreadPool& pool_;
  std::vector<int> order_;
  std::vector<Run> runs_;
  std::vector<Task> a_tasks_, b_tasks_;
  std::vector<float> middle_;
};

}  // namespace ashlar::models
