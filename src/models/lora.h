// Low-rank adapters (LoRA, arXiv:2106.09685): beside a model's matrix W stand A [rank, columns] and B [rows, rank], and
// rows that ask for the adapter get y = W x + scale * B (A x).
#pragma once

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
  struct Part {
    kernels::PackedMatrix b;
    int first_row = 0;   // of B's rows, in the model's matrix
    int first_rank = 0;  // of its A's rows, in the stack
    float scale = 1;
  };
  // Of a matrix that is a stack of several, such as q, k and v, the A's are one, for they read the same x.
  struct Beside {
    kernels::PackedMatrix a;
    std::vector<Part> parts;
  };

  // Packs the file's matrices on the caller's thread. invalid: it is for another base; corrupt: a value that is not
  // finite; exhausted: no memory.
  static Result<std::shared_ptr<const LoraAdapter>> create(const LoraFile& file, const TensorPlaces& places);

  // nullptr: nothing stands beside the matrix.
  const Beside* beside(const kernels::PackedMatrix& matrix) const;
  Bytes bytes() const override { return bytes_; }

 private:
  std::unordered_map<const kernels::PackedMatrix*, Beside> beside_;
  Bytes bytes_;
};

// Adds what the adapters of some rows give. Rows of one adapter go together, whatever stands between them, at most
// kTogether at once; a row's sums do not depend on the others. Owned by a Pass; its thread only. Takes memory with the
// first rows that have adapters.
class LoraRows {
 public:
  explicit LoraRows(ThreadPool& pool) : pool_(pool) {}

  // The adapters of the rows at hand: [rows], null where there is none.
  void set(std::span<const LoraAdapter* const> rows);
  bool any() const { return !runs_.empty(); }

  // y += scale * B (A x) for each row, x and y as the product with `matrix` had them.
  void add(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx, float* y, std::size_t ldy);

 private:
  static constexpr int kTogether = 16;
  // Rows of one adapter: [first, first + count) of order_.
  struct Run {
    const LoraAdapter* adapter;
    int first, count;
  };
  struct Task {
    const Run* run;
    const LoraAdapter::Beside* beside;
  };
  // One thread's own.
  struct Bench {
    ThreadPool alone{1};
    kernels::Activations activations;
    std::vector<float> x, middle, y;
  };
  void work(const Task& task, Bench& bench, const float* x, std::size_t ldx, float* y, std::size_t ldy) const;

  ThreadPool& pool_;
  std::vector<int> order_;
  std::vector<Run> runs_;
  std::vector<Task> tasks_;
  std::vector<std::unique_ptr<Bench>> benches_;  // [threads]
};

}  // namespace ashlar::models
