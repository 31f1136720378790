// From named tensors to weights that the layers can use: an architecture lists
// what it needs and where it goes; the list is held against the file before
// anything is computed, and then filled.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/threads.h"
#include "kernels/matrix.h"
#include "models/formats/gguf.h"
#include "models/packed_image.h"

namespace ashlar::models {

// Where tensors come from: a file, or thin air (random weights).
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // What errors call it.
  virtual const std::string& name() const = 0;
  // Names, types and dims. The data may be missing until it is asked for.
  virtual std::span<const gguf::Tensor> tensors() const = 0;
  virtual const gguf::Tensor* find(std::string_view name) const = 0;
  // The tensor's bytes. Valid until release(). exhausted: no memory for them.
  virtual Result<std::span<const std::byte>> data(const gguf::Tensor& tensor) = 0;
  // The bytes have been used. `again`: they will be read a little, now and
  // then, and stay valid; may be said many times.
  virtual void release(const gguf::Tensor& tensor, bool again) = 0;
  // Memory for packed matrices of so many bytes each, given once. Unless it is
  // fresh, they are in it already. exhausted: no memory.
  virtual Result<std::shared_ptr<PackedImage>> image(std::span<const std::size_t> sections, ThreadPool&) {
    return PackedImage::allocate(sections);
  }
  // A fresh image has been filled. May keep it; writes at most its header.
  virtual void filled(const std::shared_ptr<PackedImage>&, ThreadPool&) {}
  // Of the image, what lies in the system's page cache.
  virtual Bytes mapped() const { return {}; }
};

// Rows that are looked up, not multiplied: they stay as the file has them.
struct Embedding {
  kernels::Type type = kernels::Type::f32;
  int width = 0;
  std::size_t row_bytes = 0;
  std::span<const std::byte> rows;
  const gguf::Tensor* tensor = nullptr;  // whose rows they are
};

// Where the rows of a file's matrix stand in a matrix of the model, which may be a stack of several.
struct TensorPlace {
  const kernels::PackedMatrix* matrix = nullptr;
  int first_row = 0, rows = 0, columns = 0;
};
using TensorPlaces = std::map<std::string, TensorPlace, std::less<>>;  // by the tensor's name

class TensorList {
 public:
  struct Rows {
    std::string name;
    int rows;
    int turned = 0;  // of a matrix: the file has it as so many of [rows / turned, columns], each to be transposed
  };

  // Each adds one need. Destinations must stay where they are until fill() is
  // done. Several matrices given as `stacked` become one, in that order, for
  // they share their input.
  void matrix(std::vector<Rows> stacked, int columns, kernels::PackedMatrix& out);
  // A matrix for each of `count` experts, each stacked of its part of tensors [columns, rows, count].
  void matrices(std::vector<Rows> stacked, int columns, int count, std::vector<kernels::PackedMatrix>& out);
  // As matrix(); what is F16 or BF16 becomes F32, so that its activations are not rounded either.
  void exact_matrix(std::vector<Rows> stacked, int columns, kernels::PackedMatrix& out);
  // A vector of rows [columns, rows].
  void vector_rows(Rows rows, int columns, std::vector<float>& out);
  void vector(std::vector<Rows> joined, std::vector<float>& out);
  void embedding(std::string name, int rows, int width, Embedding& out);
  // Where the file has this instead of what the last matrix() or matrices() stacks, it is taken: all their rows, in the
  // same order.
  void or_merged(Rows merged);
  // As matrix() and vector(), for what a file may lack: `out` stays empty then.
  // Of a stack all must be there or none.
  void optional_vector(std::vector<Rows> joined, std::vector<float>& out);
  void optional_embedding(std::string name, int rows, int width, Embedding& out);
  // The matrix `name` if it is there, else `otherwise`, which is in the list already.
  void matrix_or(std::string name, std::string otherwise, int rows, int columns, kernels::PackedMatrix& out);
  // A tensor that may be in the file and is not used.
  void ignore(std::string name);
  // None of the layers from this one on is used.
  void ignore_layers_from(int layer) { first_ignored_layer_ = layer; }

  // All tensors are there, with the dims that are wanted and a type that can be
  // used so, and there is no other. corrupt, unsupported: one sentence with the
  // tensor, what is expected and what was found.
  Status check(const TensorSource& source);

  // Fills every destination. After check(). All matrices lie in one image, in
  // the list's order; the largest are packed first, for while one is packed its
  // tensors are in memory too.
  Status fill(TensorSource& source, ThreadPool& pool) const;

  enum class Use { matrix, vector, embedding };
  struct Need {
    Use use;
    bool optional = false;
    int columns = 0;     // 0: a vector
    int experts = 0;     // 0: no third dimension
    bool exact = false;  // F16 and BF16 become F32
    std::vector<Rows> parts;
    std::string otherwise;     // stands in where the file lacks the one part; may be empty
    std::vector<Rows> merged;  // the part that stands in for all where the file has it; may be empty
    kernels::PackedMatrix* matrix = nullptr;
    std::vector<kernels::PackedMatrix>* matrices = nullptr;  // instead, where there are experts
    std::vector<float>* vector = nullptr;
    Embedding* embedding = nullptr;
    std::vector<const gguf::Tensor*> found;  // set by check(); empty: an optional need that is not met
  };
  std::span<const Need> needs() const { return needs_; }
  // Tells filled matrices the order of their columns, and which of them are kept apart.
  static void take_columns(const Need& need);

  // Where each tensor's rows stand in the matrices, but for an embedding that is one too. After check().
  TensorPlaces places() const;

 private:
  Status check_need(const TensorSource& source, Need& need) const;
  Status fill_matrices(TensorSource& source, ThreadPool& pool) const;
  Status pack(const Need& need, std::size_t first_section, TensorSource& source,
              const std::shared_ptr<PackedImage>& image, ThreadPool& pool) const;
  bool looked_up(const gguf::Tensor* tensor) const;

  std::vector<Need> needs_;
  std::vector<std::string> ignored_;
  int first_ignored_layer_ = INT_MAX;
};

// A part of a need as it is packed, from bytes of this type, the tensor's or what stands in for them. `buffer` holds
// what those cannot serve for.
kernels::RawMatrix raw_part(const TensorList::Need& need, std::size_t part, kernels::Type type,
                            std::span<const std::byte> data, std::vector<std::byte>& buffer);

}  // namespace ashlar::models
