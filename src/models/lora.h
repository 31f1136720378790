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
#include "kernels/narrow.h"
#include "models/formats/lora_file.h"
#include "models/model.h"
#include "models/tensors.h"

namespace ashlar::models {

// Frozen after create(); any thread. Knows the model that it was made for by where its matrices lie.
class LoraAdapter final : public Adapter {
 public:
  // Beside rows of a matrix, `first_row` the first. Int8 beside quantized weights, which are off by more than that
  // costs, else BF16. A rank that is odd is filled up to an even one with zeros.
  struct Part {
    kernels::NarrowIn a;   // [rank, columns]
    kernels::NarrowOut b;  // [rows, rank]
    int first_row = 0;
    float scale = 1;
    int rank() const { return a.outputs(); }
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

// Adds what the adapters of some rows give: y += scale * B (A x), x and y as a product has them. Rows of one adapter go
// together, whatever stands between them, at most kernels::kNarrowRows at once; a row's sums do not depend on the
// others. Owned by a Pass; its thread only, but for add(). Takes memory with the first rows that have adapters.
class LoraRows {
 public:
  explicit LoraRows(ThreadPool& pool) : pool_(pool) {}

  // The adapters of the rows at hand: [rows], null where there is none.
  void set(std::span<const LoraAdapter* const> rows);

  // A x for a product with `matrix` that is about to begin. False: nothing stands beside it.
  bool prepare(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx);
  // y += scale * B (A x) in outputs [first, first + outputs), which the product has just given to all rows. Any thread.
  void add(int first, int outputs, float* y, std::size_t ldy) const;

 private:
  // Rows of one adapter: [first, first + count) of order_; what stands beside the matrix at hand: [first_side, + sides)
  // of sides_.
  struct Run {
    const LoraAdapter* adapter;
    int first, count;
    int first_side = 0, sides = 0;
  };
  // A part for the rows of a run: what A gives them begins at row `middle` of middle_, and of its codes.
  struct Side {
    const Run* run;
    const LoraAdapter::Part* part;
    std::size_t middle;
  };
  using Sides = std::span<const Side* const>;
  void list_sides(const kernels::PackedMatrix& matrix);
  void each_abreast(std::span<const Run> runs, FunctionRef<void(Sides)> use) const;
  void convert(const Run& run, const float* x, std::size_t ldx);
  void multiply_a(Sides sides, const float* x, std::size_t ldx);
  void convert_middle(const Side& side);
  void multiply_b(Sides sides, int first, int outputs, float* y, std::size_t ldy) const;
  std::size_t middle_at(const Side& side, int row) const {
    return (side.middle + static_cast<std::size_t>(row)) * static_cast<std::size_t>(most_rank_);
  }

  // Rows as Narrow8Job has them, of at most so many columns.
  class Codes {
   public:
    void make_room(std::size_t rows, int columns);
    void convert(std::size_t row, const float* x, int columns);
    void set(kernels::Narrow8Job& job, std::size_t first_row) const;

   private:
    std::size_t ld_ = 0, ld_scales_ = 0;
    std::vector<std::int8_t> codes_;
    std::vector<kernels::NarrowScale> scales_;
  };

  ThreadPool& pool_;
  std::vector<int> order_;
  std::vector<Run> runs_;
  std::vector<Side> sides_;
  int most_rank_ = 0;
  std::vector<float> middle_;  // [rows of all sides, most_rank_]
  // Beside quantized weights: x, row after row of order_, and the middle.
  bool int8_ = false;
  int columns_ = 0;
  Codes x_codes_, middle_codes_;
};

}  // namespace ashlar::models
