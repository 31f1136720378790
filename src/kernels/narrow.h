// Small matrices that few rows meet, such as those of low-rank adapters, packed for the kernels of NarrowJob (bf16) and
// Narrow8Job (int8).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/table.h"

namespace ashlar::kernels {

// int8: a scale for each 128 inputs of an output, and of x; weights are off by about 0.6 % of their root mean square, x
// without outliers likewise, and products by 0.9 %.
enum class NarrowForm : std::uint8_t { bf16, int8 };

// A packed matrix of more inputs than outputs, for narrow_in or narrow8. Memory is the caller's.
class NarrowIn {
 public:
  NarrowIn(NarrowForm form, int inputs, int outputs) : form_(form), inputs_(inputs), outputs_(outputs) {}
  NarrowForm form() const { return form_; }
  int inputs() const { return inputs_; }
  int outputs() const { return outputs_; }
  std::size_t bytes() const;  // whole lines of 64
  // Where it is to lie, on a line of 64 bytes, all zeros.
  void place(std::byte* at) { at_ = at; }
  // What gives an output: [inputs], finite.
  void pack(int output, std::span<const float> weights);

  // Outputs [first, first + count) for up to kNarrowRows rows, but for `rows`, x and y.
  NarrowJob job(int first, int count, float scale) const;
  // `first` is a multiple of 16, and so is `count` but for the last outputs.
  Narrow8Job job8(int first, int count, float scale) const;

 private:
  NarrowForm form_;
  int inputs_, outputs_;
  std::byte* at_ = nullptr;
};

// One of more outputs than inputs, for narrow_out or narrow8. Its inputs are even in number.
class NarrowOut {
 public:
  NarrowOut(NarrowForm form, int inputs, int outputs) : form_(form), inputs_(inputs), outputs_(outputs) {}
  NarrowForm form() const { return form_; }
  int inputs() const { return inputs_; }
  int outputs() const { return outputs_; }
  std::size_t bytes() const;
  void place(std::byte* at) { at_ = at; }
  // At most `inputs` weights; the others are zero.
  void pack(int output, std::span<const float> weights);

  // `first` is a multiple of 16, and so is `count` but for the last outputs.
  NarrowJob job(int first, int count) const;
  Narrow8Job job8(int first, int count) const;

 private:
  NarrowForm form_;
  int inputs_, outputs_;
  std::byte* at_ = nullptr;
};

}  // namespace ashlar::kernels
