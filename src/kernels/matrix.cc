#include "kernels/matrix.h"

#include <algorithm>
#include <new>

#include "kernels/blocks.h"
#include "kernels/codebooks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr int kQuantizeElements = 16 * 1024;       // of one task
constexpr std::size_t kStreamBytes = 2048 * 1024;  // of weights in one task: where one begins, nothing was fetched
// Tiles of one task when there are many rows: they stay in L2. Float kernels take them by threes.
constexpr int kGemmTiles = 4, kFloatGemmTiles = 6, kTileGemmTiles = 16;

int divide_up(int n, int by) { return (n + by - 1) / by; }
std::size_t size(int n) { return static_cast<std::size_t>(n); }

void grow(HugeMemory& memory, std::size_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = HugeMemory();
  auto fresh = HugeMemory::allocate(bytes);
  if (!fresh) throw std::bad_alloc();  // the step fails, and the next one asks again
  memory = std::move(*fresh);
}

Forms form_of(Type type, int columns) {
  const bool quantized = type_info(type).block > 1, tiles = reads_tiles(type, columns);
  return {.quantized = quantized && !tiles,
          .floats = !quantized && !tiles,
          .int8_tiles = quantized && tiles,
          .bf16_tiles = !quantized && tiles};
}

// The smallest width of a float panel that has room for `rows`.
int panel_width(int rows) { return rows >= 5 ? 8 : rows >= 3 ? 4 : rows; }

// Tiles of one task: enough bytes to be worth fetching, few enough that all threads share the work. `shares`: tasks
// that the segment should give at least.
int tiles_per_task(const PackedMatrix::Segment& segment, const Activations& x, int rows, int shares) {
  const int tiles = divide_up(segment.rows, kLanes);
  const int stream = static_cast<int>(std::clamp<std::size_t>(kStreamBytes / segment.tile_bytes, 1, 64));
  const Forms form = form_of(segment.type, x.columns());
  if ((form.int8_tiles || form.bf16_tiles) && rows > kPanelRows)  // by twos
    return std::clamp(tiles / shares / 2 * 2, 2, kTileGemmTiles);
  const int many = form.floats ? kFloatGemmTiles : kGemmTiles;
  const int wish = rows > kPanelRows ? many : stream;
  return std::clamp(tiles / shares, 1, wish);
}

// What Activations are cut from: rows in panels, columns in units that belong together.
struct Cut {
  int panel_rows;
  int columns, unit;
};

// fn(group, panel of it, rows of the panel, first column, columns), each of about kQuantizeElements: few rows are not
// worth a second thread.
void each_piece(std::span<const Activations::Group> groups, const Cut& cut, ThreadPool& pool,
                FunctionRef<void(const Activations::Group&, int, int, int, int)> fn) {
  int panels = 0, most = 1;
  for (const Activations::Group& group : groups) {
    panels += divide_up(group.rows, cut.panel_rows);
    most = std::max(most, std::min(group.rows, cut.panel_rows));
  }
  const int width = std::max(1, kQuantizeElements / most / cut.unit) * cut.unit, pieces = divide_up(cut.columns, width);
  pool.for_each(panels * pieces, [&](int task, int) {
    int panel = task / pieces;
    const int column = task % pieces * width;
    auto group = groups.begin();
    for (; panel >= divide_up(group->rows, cut.panel_rows); ++group) panel -= divide_up(group->rows, cut.panel_rows);
    fn(*group, panel, std::min(cut.panel_rows, group->rows - panel * cut.panel_rows), column,
       std::min(width, cut.columns - column));
  });
}

MatmulJob job_for(const PackedMatrix::Segment& segment, const Product& product, const Activations& x, std::size_t ldy,
                  int tile, int tiles, int worker) {
  const Activations::Group& group = x.groups()[size(product.group)];
  const Activations::Panels panels = x.panels(segment.type, group);
  const int first = tile * kLanes;
  return {.tiles = reinterpret_cast<const std::uint8_t*>(product.w->data() + segment.offset) +
                   segment.tile_bytes * static_cast<std::size_t>(tile),
          .tile_bytes = segment.tile_bytes,
          .outputs = std::min(segment.rows - first, tiles * kLanes),
          .units = segment.units,
          .x = panels.data,
          .panel_bytes = panels.bytes,
          .rows = group.rows,
          .partial = x.partial(worker),
          .y = product.y + segment.first_row + first,
          .ldy = ldy};
}

}  // namespace

Forms PackedMatrix::forms() const {
  Forms forms;
  for (const Segment& segment : segments_) forms = forms | form_of(segment.type, columns_);
  return forms;
}

std::size_t Activations::quantized_panel_bytes() const {
  return static_cast<std::size_t>(columns_ / kBlock) * sizeof(PanelBlock);
}

// An even number of columns: BF16 weights come in pairs.
std::size_t Activations::float_panel_bytes() const {
  return static_cast<std::size_t>(columns_ + columns_ % 2) * kFloatPanelRows * sizeof(float);
}

// The scales between the tiles also keep panels from lying a power of two apart, where they would compete for the
// same few places of the cache.
std::size_t Activations::int8_panel_bytes(int rows) const {
  return size(divide_up(columns_, kInt8GroupColumns) * int8_group_bytes(int8_lines(rows)));
}

// Whole groups, and one tile more for the same reason.
std::size_t Activations::bf16_panel_bytes() const {
  return static_cast<std::size_t>(divide_up(columns_, 32 * kBf16GroupTiles)) * kBf16GroupBytes + kTileBytes;
}

// A sum for each row, rows in pairs of panels, and each output of a task.
std::size_t Activations::partial_floats() const {
  return static_cast<std::size_t>(divide_up(rows_, 2 * kTileRows)) * 2 * kTileRows * kTileGemmTiles * kLanes;
}

float* Activations::partial(int worker) const {
  if (partial_.data() == nullptr) return nullptr;  // nothing ever stood in tiles
  return reinterpret_cast<float*>(partial_.data()) + partial_floats() * static_cast<std::size_t>(worker);
}

// A group begins where its first panel would if all panels were whole.
Activations::Panels Activations::panels(Type type, const Group& group) const {
  const Forms form = form_of(type, columns_);
  const std::size_t first = size(group.first_panel);
  if (form.int8_tiles) return {int8_tiles_.data() + first * int8_panel_bytes(kTileRows), int8_panel_bytes(group.rows)};
  if (form.bf16_tiles) return {bf16_tiles_.data() + first * bf16_panel_bytes(), bf16_panel_bytes()};
  if (form.floats)
    return {floats_.data() + first * (kPanelRows / kFloatPanelRows) * float_panel_bytes(), float_panel_bytes()};
  return {quantized_.data() + first * quantized_panel_bytes(), quantized_panel_bytes()};
}

void Activations::make_floats(const float* x, std::size_t ldx, ThreadPool& pool) {
  each_piece(groups_, {kFloatPanelRows, columns_, columns_}, pool,
             [&](const Group& group, int panel, int rows, int, int) {
               const Panels panels = this->panels(Type::f32, group);
               auto* out = reinterpret_cast<float*>(const_cast<std::byte*>(static_cast<const std::byte*>(panels.data)) +
                                                    panels.bytes * size(panel));
               const float* from = x + size(group.first_row + panel * kFloatPanelRows) * ldx;
               const int width = panel_width(rows);
               for (int k = 0; k < columns_ + columns_ % 2; ++k)
                 for (int r = 0; r < width; ++r)
                   out[k * width + r] = r < rows && k < columns_ ? from[size(r) * ldx + size(k)] : 0;
             });
}

void Activations::quantize(const float* x, std::size_t ldx, ThreadPool& pool) {
  each_piece(groups_, {kPanelRows, columns_, kBlock}, pool,
             [&](const Group& group, int panel, int rows, int column, int columns) {
               auto* out = reinterpret_cast<PanelBlock*>(quantized_.data() +
                                                         quantized_panel_bytes() * size(group.first_panel + panel));
               kernels().quantize_panel(x + size(group.first_row + panel * kPanelRows) * ldx + column, ldx, rows,
                                        columns, out + column / kBlock);
             });
}

void Activations::make_int8_tiles(const float* x, std::size_t ldx, ThreadPool& pool) {
  each_piece(groups_, {kTileRows, columns_, kInt8GroupColumns}, pool,
             [&](const Group& group, int panel, int rows, int column, int columns) {
               const int lines = int8_lines(group.rows);
               auto* out = reinterpret_cast<std::uint8_t*>(int8_tiles_.data()) +
                           int8_panel_bytes(kTileRows) * size(group.first_panel) +
                           int8_panel_bytes(group.rows) * size(panel);
               kernels().int8_panel(x + size(group.first_row + panel * kTileRows) * ldx + column, ldx, rows, columns,
                                    lines, out + size(column / kInt8GroupColumns * int8_group_bytes(lines)));
             });
}

void Activations::make_bf16_tiles(const float* x, std::size_t ldx, ThreadPool& pool) {
  constexpr int kColumns = kTileBytes / kTileRows / 2;
  each_piece(groups_, {kTileRows, columns_, kColumns}, pool,
             [&](const Group& group, int panel, int rows, int column, int columns) {
               auto* out = reinterpret_cast<std::uint8_t*>(bf16_tiles_.data() +
                                                           bf16_panel_bytes() * size(group.first_panel + panel));
               kernels().bf16_panel(x + size(group.first_row + panel * kTileRows) * ldx + column, ldx, rows, columns,
                                    out + size(column / kColumns * kTileBytes));
             });
}

// Memory for so many panels, and what stands in the groups.
void Activations::convert(const float* x, std::size_t ldx, Forms forms, int panels, ThreadPool& pool) {
  CHECK(!forms.quantized || columns_ % kBlock == 0, "quantized activations are whole blocks of 32 columns");
  forms_ = forms;
  if (forms.quantized) {
    grow(quantized_, quantized_panel_bytes() * size(panels));
    quantize(x, ldx, pool);
  }
  if (forms.int8_tiles) {
    grow(int8_tiles_, int8_panel_bytes(kTileRows) * size(panels));
    make_int8_tiles(x, ldx, pool);
  }
  if (forms.bf16_tiles) {
    grow(bf16_tiles_, bf16_panel_bytes() * size(panels));
    make_bf16_tiles(x, ldx, pool);
  }
  if (forms.int8_tiles || forms.bf16_tiles) grow(partial_, partial_floats() * sizeof(float) * size(pool.size()));
  if (forms.floats) {
    grow(floats_, float_panel_bytes() * size(panels * (kPanelRows / kFloatPanelRows)));
    make_floats(x, ldx, pool);
  }
}

void Activations::assign(const float* x, std::size_t ldx, int rows, int columns, Forms forms, ThreadPool& pool) {
  rows_ = rows;
  columns_ = columns;
  groups_.assign(1, {.first_row = 0, .rows = rows, .first_panel = 0});
  convert(x, ldx, forms, divide_up(rows, kPanelRows), pool);
}

void Activations::assign_groups(const float* x, std::size_t ldx, std::span<const int> group_rows, int most_groups,
                                int columns, Forms forms, ThreadPool& pool) {
  CHECK(group_rows.size() <= size(most_groups), "no more groups than there are said to be");
  columns_ = columns;
  rows_ = 0;
  groups_.reserve(size(most_groups));
  groups_.clear();
  int panels = 0;
  for (const int rows : group_rows) {
    CHECK(rows > 0, "a group has rows");
    groups_.push_back({.first_row = rows_, .rows = rows, .first_panel = panels});
    rows_ += rows;
    panels += divide_up(rows, kPanelRows);
  }
  convert(x, ldx, forms, rows_ / kPanelRows + std::min(rows_, most_groups), pool);
}

void take_columns(const float* x, std::size_t ldx, std::span<const std::int32_t> order, int rows, float* out,
                  std::size_t ld_out, ThreadPool& pool) {
  pool.for_each(rows, [&](int row, int) {
    const float* from = x + ldx * size(row);
    float* to = out + ld_out * size(row);
    for (std::size_t k = 0; k < order.size(); ++k) to[k] = from[order[k]];
  });
}

void clear_kept_columns(const float* x, std::size_t ldx, const KeptColumns& kept, int rows, int columns, float* out,
                        std::size_t ld_out, ThreadPool& pool) {
  pool.for_each(rows, [&](int row, int) {
    float* to = out + static_cast<std::size_t>(row) * ld_out;
    std::copy_n(x + static_cast<std::size_t>(row) * ldx, columns, to);
    for (const std::int32_t column : kept.columns) to[column] = 0;
  });
}

void add_kept_columns(const float* x, std::size_t ldx, const KeptColumns& kept, int rows, int out, float* y,
                      std::size_t ldy, ThreadPool& pool) {
  constexpr int kPiece = 1024;  // of the outputs, so that a piece stays in the first cache for all columns
  const int pieces = (out + kPiece - 1) / kPiece;
  pool.for_each(rows * pieces, [&](int task, int) {
    const auto row = static_cast<std::size_t>(task / pieces);
    const int first = task % pieces * kPiece, count = std::min(kPiece, out - first);
    float* to = y + row * ldy + first;
    for (std::size_t k = 0; k < kept.columns.size(); ++k) {
      const float factor = x[row * ldx + static_cast<std::size_t>(kept.columns[k])];
      const float* w = kept.weights.data() + k * static_cast<std::size_t>(out) + first;
      for (int o = 0; o < count; ++o) to[o] += factor * w[o];
    }
  });
}

namespace {

void multiply(std::span<Product> products, const Activations& x, std::size_t ldy, ThreadPool& pool, const Then* then) {
  if (products.empty()) return;
  const int shares = divide_up(4 * pool.size(), static_cast<int>(products.size()));
  int tasks = 0;
  for (Product& product : products) {
    const PackedMatrix& w = *product.w;
    CHECK(w.columns() == x.columns(), "weights and activations differ in columns");
    CHECK(x.forms().covers(w.forms()), "the activations lack a form that the weights need");
    product.first_task = tasks;
    for (const PackedMatrix::Segment& segment : w.segments())
      tasks += divide_up(divide_up(segment.rows, kLanes),
                         tiles_per_task(segment, x, x.groups()[size(product.group)].rows, shares));
  }
  pool.for_each(tasks, [&](int task, int worker) {
    const Product& product = *std::prev(std::ranges::upper_bound(products, task, {}, &Product::first_task));
    task -= product.first_task;
    for (const PackedMatrix::Segment& segment : product.w->segments()) {
      const int tiles = divide_up(segment.rows, kLanes);
      const int step = tiles_per_task(segment, x, x.groups()[size(product.group)].rows, shares);
      const int own = divide_up(tiles, step);
      if (task < own) {
        CHECK(segment.codebooks == by_codebooks(segment.type, x.columns()), "weights were packed for other kernels");
        const MatmulJob job =
            job_for(segment, product, x, ldy, task * step, std::min(step, tiles - task * step), worker);
        const auto& kernel = reads_tiles(segment.type, x.columns()) ? kernels().tile_matmul : kernels().matmul;
        kernel[format_of(segment.type)](&job);
        if (then != nullptr) (*then)(segment.first_row + task * step * kLanes, job.outputs);
        return;
      }
      task -= own;
    }
  });
}

void multiply(const PackedMatrix& w, const Activations& x, float* y, std::size_t ldy, ThreadPool& pool,
              const Then* then) {
  CHECK(x.groups().size() == 1, "rows in groups have products of their own");
  Product product{.w = &w, .group = 0, .y = y};
  multiply(std::span(&product, 1), x, ldy, pool, then);
}

}  // namespace

void matmul(const PackedMatrix& w, const Activations& x, float* y, std::size_t ldy, ThreadPool& pool) {
  multiply(w, x, y, ldy, pool, nullptr);
}

void matmul(const PackedMatrix& w, const Activations& x, float* y, std::size_t ldy, ThreadPool& pool, Then then) {
  multiply(w, x, y, ldy, pool, &then);
}

void matmul(std::span<Product> products, const Activations& x, std::size_t ldy, ThreadPool& pool) {
  multiply(products, x, ldy, pool, nullptr);
}

}  // namespace ashlar::kernels
