// Weight matrices repacked for the kernels, activations in the forms they need,
// and their product.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/types.h"

namespace ashlar::kernels {

// Memory on 2 MiB pages where the system grants them; aligned to 64 bytes at least, zeroed. Move-only.
class HugeMemory {
 public:
  HugeMemory() = default;
  // exhausted: the system has no such amount.
  static Result<HugeMemory> allocate(std::size_t bytes);

  std::byte* data() const { return memory_.get(); }
  std::size_t bytes() const { return memory_.get_deleter().bytes; }

 private:
  struct Unmap {
    std::size_t bytes;
    void operator()(std::byte* p) const;
  };
  explicit HugeMemory(std::byte* p, std::size_t bytes) : memory_(p, Unmap{bytes}) {}
  std::unique_ptr<std::byte, Unmap> memory_;
};

// A matrix as it lies in a file: [rows, columns] row-major in blocks of `type`.
// Borrowed; needs no alignment.
struct RawMatrix {
  Type type = Type::f32;
  int rows = 0;
  int columns = 0;
  const std::byte* data = nullptr;
};

// What forms of the activations a product reads.
struct Forms {
  bool quantized = false;
  bool floats = false;
  bool int8_tiles = false;
  bool bf16_tiles = false;
  Forms operator|(Forms other) const {
    return {quantized || other.quantized, floats || other.floats, int8_tiles || other.int8_tiles,
            bf16_tiles || other.bf16_tiles};
  }
  bool operator==(const Forms&) const = default;
  bool covers(Forms other) const { return (*this | other) == *this; }
};

// Columns of a matrix whose weights are not among its codes, since what they meet is too large for int8 beside the
// others (LLM.int8(), arXiv:2208.07339): the product with them is added in floats.
struct KeptColumns {
  std::vector<std::int32_t> columns;  // rising
  std::vector<float> weights;         // [columns, rows of the matrix]
};

// Counts the layouts of packed weights: raise it with every change to what pack() writes, so that bytes which an
// older program kept are not taken for today's.
inline constexpr std::uint32_t kPackedVersion = 2;

// A matrix W in the layout of table.h that the kernels in use read. Made by pack() or adopt(); frozen; any thread.
// Move-only.
class PackedMatrix {
 public:
  // Consecutive weight rows of one type.
  struct Segment {
    Type type;
    int first_row;
    int rows;
    int units;
    std::size_t tile_bytes;
    std::size_t offset;
    bool codebooks;  // as codebooks.h has it
  };

  int rows() const { return rows_; }
  int columns() const { return columns_; }
  // Of the first rows.
  Type type() const { return segments_.empty() ? Type::f32 : segments_.front().type; }
  std::size_t bytes() const { return bytes_.size(); }
  Forms forms() const;  // that the kernels in use read
  std::span<const Segment> segments() const { return segments_; }
  const std::byte* data() const { return bytes_.data(); }

  // Column k meets element order()[k] of a row of x; empty: its own. Activations take x in this order: see
  // take_columns(). [columns], each below columns.
  std::span<const std::int32_t> order() const { return order_; }
  void set_order(std::vector<std::int32_t> order) { order_ = std::move(order); }

  // nullptr: there are none. Whoever multiplies gives Activations 0 in their place, and calls add_kept_columns().
  const KeptColumns* kept() const { return kept_.get(); }
  void set_kept(std::shared_ptr<const KeptColumns> kept) { kept_ = std::move(kept); }

 private:
  friend struct PackedPlan;
  int rows_ = 0;
  int columns_ = 0;
  std::vector<Segment> segments_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;  // of the bytes
  std::vector<std::int32_t> order_;
  std::shared_ptr<const KeptColumns> kept_;
};

// Stacks matrices of equal columns, possibly of different types, in this order: so one product serves
// q, k and v. invalid: nothing to stack, unequal columns, or columns that are not whole blocks.
Result<PackedMatrix> pack(std::span<const RawMatrix> stacked, ThreadPool& pool);

// How many bytes pack() needs for them, a multiple of 64. Their data is not looked at. invalid: as pack().
Result<std::size_t> packed_bytes(std::span<const RawMatrix> stacked);

// As pack(), into room that somebody else gives: packed_bytes() of zeros, aligned to 64. `owner` keeps it.
Result<PackedMatrix> pack_into(std::span<const RawMatrix> stacked, std::span<std::byte> room,
                               std::shared_ptr<const void> owner, ThreadPool& pool);

// What pack() gave for matrices of the same types and sizes, from its bytes; `stacked` needs no data.
// Whatever the bytes are, products stay within them. invalid: as pack(), or not packed_bytes() aligned to 64.
Result<PackedMatrix> adopt(std::span<const RawMatrix> stacked, std::span<const std::byte> packed,
                           std::shared_ptr<const void> owner);

// Some rows x, converted once and read by any number of products. Keeps its memory
// between assignments. One thread at a time.
class Activations {
 public:
  // Consecutive rows that meet the same weights, converted as if they were alone.
  struct Group {
    int first_row = 0, rows = 0;
    int first_panel = 0;  // of kPanelRows rows
  };

  // x [rows, columns], rows `ldx` floats apart. columns a multiple of 32 if quantized.
  // Quantized: each 32 columns of a row to int8 with the scale max|x| / 127. Tiles of int8: the same for
  // each group of columns.
  void assign(const float* x, std::size_t ldx, int rows, int columns, Forms forms, ThreadPool& pool);
  // The same for rows in groups, one after the other: group i has group_rows[i] rows, at least one. Takes memory for
  // `most_groups` groups of as many rows in all, however they fall.
  void assign_groups(const float* x, std::size_t ldx, std::span<const int> group_rows, int most_groups, int columns,
                     Forms forms, ThreadPool& pool);

  int rows() const { return rows_; }
  std::span<const Group> groups() const { return groups_; }
  int columns() const { return columns_; }
  Forms forms() const { return forms_; }
  // The panels of a group in the form that products with weights of this type read.
  struct Panels {
    const void* data = nullptr;
    std::size_t bytes = 0;  // of each
  };
  Panels panels(Type type, const Group& group) const;
  // Where products on tiles leave sums between two steps. [worker] as the pool counts them.
  float* partial(int worker) const;

 private:
  void convert(const float* x, std::size_t ldx, Forms forms, int panels, ThreadPool& pool);
  void quantize(const float* x, std::size_t ldx, ThreadPool& pool);
  void make_int8_tiles(const float* x, std::size_t ldx, ThreadPool& pool);
  void make_bf16_tiles(const float* x, std::size_t ldx, ThreadPool& pool);
  void make_floats(const float* x, std::size_t ldx, ThreadPool& pool);
  std::size_t quantized_panel_bytes() const;
  std::size_t float_panel_bytes() const;
  std::size_t int8_panel_bytes(int rows) const;
  std::size_t bf16_panel_bytes() const;
  std::size_t partial_floats() const;
  int rows_ = 0;
  int columns_ = 0;
  std::vector<Group> groups_;
  Forms forms_;
  HugeMemory quantized_;
  HugeMemory floats_;
  HugeMemory int8_tiles_;
  HugeMemory bf16_tiles_;
  HugeMemory partial_;
};

// out[r, k] = x[r, order[k]], for a matrix with an order. Rows `ldx` and `ld_out` floats apart; they do not overlap.
void take_columns(const float* x, std::size_t ldx, std::span<const std::int32_t> order, int rows, float* out,
                  std::size_t ld_out, ThreadPool& pool);

// out = x, but 0 in the kept columns. Rows `ldx` and `ld_out` floats apart; they do not overlap.
void clear_kept_columns(const float* x, std::size_t ldx, const KeptColumns& kept, int rows, int columns, float* out,
                        std::size_t ld_out, ThreadPool& pool);
// y[r, o] += sum over the kept columns k of w[k, o] x[r, columns[k]]; y [rows, `out`]. A row's result does not depend
// on the other rows, nor on the pool.
void add_kept_columns(const float* x, std::size_t ldx, const KeptColumns& kept, int rows, int out, float* y,
                      std::size_t ldy, ThreadPool& pool);

// y[r, o] = sum over k of W[o, k] x[r, k]; y [x.rows(), w.rows()], rows `ldy` floats apart.
// x has the columns and at least the forms of w. A row's result does not depend on the other
// rows, nor on the pool.
void matmul(const PackedMatrix& w, const Activations& x, float* y, std::size_t ldy, ThreadPool& pool);

// One of several products that are computed together: of the rows of a group of x. y is where its first row's results
// go.
struct Product {
  const PackedMatrix* w = nullptr;
  int group = 0;
  float* y = nullptr;
  int first_task = 0;  // set by matmul()
};

// All of them in one loop, so that small matrices keep all threads busy too. Each as matmul() alone gives it, bit for
// bit. The y do not overlap.
void matmul(std::span<Product> products, const Activations& x, std::size_t ldy, ThreadPool& pool);

}  // namespace ashlar::kernels
