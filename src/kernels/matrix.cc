#include "kernels/matrix.h"

#include <algorithm>

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
  CHECK(fresh.has_value(), "no memory for activations");
  memory = std::move(*fresh);
}

Forms form_of(Type type) {
  if (kernels().int8_panel != nullptr && type != Type::f32)  // a matrix unit
    return type_info(type).block == 1 ? Forms{.bf16_tiles = true} : Forms{.int8_tiles = true};
  return type_info(type).block == 1 ? Forms{.floats = true} : Forms{.quantized = true};
}

// The smallest width of a float panel that has room for `rows`.
int panel_width(int rows) { return rows >= 5 ? 8 : rows >= 3 ? 4 : rows; }

// Tiles of one task: enough bytes to be worth fetching, few enough that all threads share the work.
int tiles_per_task(const PackedMatrix::Segment& segment, int rows, int threads) {
  const int tiles = divide_up(segment.rows, kLanes);
  const int stream = static_cast<int>(std::clamp<std::size_t>(kStreamBytes / segment.tile_bytes, 1, 64));
  const Forms form = form_of(segment.type);
  if ((form.int8_tiles || form.bf16_tiles) && rows > kPanelRows)  // by twos
    return std::clamp(tiles / (4 * threads) / 2 * 2, 2, kTileGemmTiles);
  const int many = form.floats ? kFloatGemmTiles : kGemmTiles;
  const int wish = rows > kPanelRows ? many : stream;
  return std::clamp(tiles / (4 * threads), 1, wish);
}

// What Activations are cut from: rows in panels, columns in units that belong together.
struct Cut {
  int rows, panel_rows;
  int columns, unit;
};

// fn(panel, rows of it, first column, columns), each of about kQuantizeElements: few rows are not worth a second
// thread.
void each_piece(const Cut& cut, ThreadPool& pool, FunctionRef<void(int, int, int, int)> fn) {
  const int panels = divide_up(cut.rows, cut.panel_rows);
  const int units = kQuantizeElements / std::min(cut.rows, cut.panel_rows) / cut.unit;
  const int width = std::max(1, units) * cut.unit, pieces = divide_up(cut.columns, width);
  pool.for_each(panels * pieces, [&](int task, int) {
    const int panel = task / pieces, column = task % pieces * width;
    fn(panel, std::min(cut.panel_rows, cut.rows - panel * cut.panel_rows), column,
       std::min(width, cut.columns - column));
  });
}

struct Panels {
  const void* data = nullptr;
  std::size_t bytes = 0;
};

// What the kernels in use read for this type.
Panels panels_for(Type type, const Activations& x) {
  const Forms form = form_of(type);
  if (form.int8_tiles) return {x.int8_tiles(), x.int8_panel_bytes()};
  if (form.bf16_tiles) return {x.bf16_tiles(), x.bf16_panel_bytes()};
  if (form.floats) return {x.floats(), x.float_panel_bytes()};
  return {x.quantized(), x.quantized_panel_bytes()};
}

MatmulJob job_for(const PackedMatrix& w, const PackedMatrix::Segment& segment, const Activations& x, float* y,
                  std::size_t ldy, int tile, int tiles, int worker) {
  const Panels panels = panels_for(segment.type, x);
  const int first = tile * kLanes;
  return {.tiles = reinterpret_cast<const std::uint8_t*>(w.data() + segment.offset) +
                   segment.tile_bytes * static_cast<std::size_t>(tile),
          .tile_bytes = segment.tile_bytes,
          .outputs = std::min(segment.rows - first, tiles * kLanes),
          .units = segment.units,
          .x = panels.data,
          .panel_bytes = panels.bytes,
          .rows = x.rows(),
          .partial = x.partial(worker),
          .y = y + segment.first_row + first,
          .ldy = ldy};
}

}  // namespace

Forms PackedMatrix::forms() const {
  Forms forms;
  for (const Segment& segment : segments_) forms = forms | form_of(segment.type);
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
std::size_t Activations::int8_panel_bytes() const {
  return size(divide_up(columns_, 64 * int8_group_tiles(columns_)) * int8_group_bytes(columns_, int8_lines(rows_)));
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

void Activations::transpose(const float* x, std::size_t ldx, int panel) {
  const int rows = std::min(kFloatPanelRows, rows_ - panel * kFloatPanelRows), width = panel_width(rows);
  auto* out = reinterpret_cast<float*>(floats_.data() + float_panel_bytes() * static_cast<std::size_t>(panel));
  for (int k = 0; k < columns_ + columns_ % 2; ++k)
    for (int r = 0; r < width; ++r)
      out[k * width + r] =
          r < rows && k < columns_ ? x[static_cast<std::size_t>(r) * ldx + static_cast<std::size_t>(k)] : 0;
}

void Activations::quantize(const float* x, std::size_t ldx, ThreadPool& pool) {
  grow(quantized_, quantized_panel_bytes() * size(divide_up(rows_, kPanelRows)));
  each_piece({rows_, kPanelRows, columns_, kBlock}, pool, [&](int panel, int rows, int column, int columns) {
    auto* out = reinterpret_cast<PanelBlock*>(quantized_.data() + quantized_panel_bytes() * size(panel));
    kernels().quantize_panel(x + size(panel * kPanelRows) * ldx + column, ldx, rows, columns, out + column / kBlock);
  });
}

void Activations::make_int8_tiles(const float* x, std::size_t ldx, ThreadPool& pool) {
  const int tiles = int8_group_tiles(columns_), group = 64 * tiles, lines = int8_lines(rows_);
  grow(int8_tiles_, int8_panel_bytes() * size(divide_up(rows_, kTileRows)));
  each_piece({rows_, kTileRows, columns_, group}, pool, [&](int panel, int rows, int column, int columns) {
    auto* out = reinterpret_cast<std::uint8_t*>(int8_tiles_.data() + int8_panel_bytes() * size(panel));
    kernels().int8_panel(x + size(panel * kTileRows) * ldx + column, ldx, rows, columns, tiles, lines,
                         out + size(column / group * int8_group_bytes(columns_, lines)));
  });
}

void Activations::make_bf16_tiles(const float* x, std::size_t ldx, ThreadPool& pool) {
  constexpr int kColumns = kTileBytes / kTileRows / 2;
  grow(bf16_tiles_, bf16_panel_bytes() * size(divide_up(rows_, kTileRows)));
  each_piece({rows_, kTileRows, columns_, kColumns}, pool, [&](int panel, int rows, int column, int columns) {
    auto* out = reinterpret_cast<std::uint8_t*>(bf16_tiles_.data() + bf16_panel_bytes() * size(panel));
    kernels().bf16_panel(x + size(panel * kTileRows) * ldx + column, ldx, rows, columns,
                         out + size(column / kColumns * kTileBytes));
  });
}

void Activations::assign(const float* x, std::size_t ldx, int rows, int columns, Forms forms, ThreadPool& pool) {
  CHECK(!forms.quantized || columns % kBlock == 0, "quantized activations are whole blocks of 32 columns");
  rows_ = rows;
  columns_ = columns;
  forms_ = forms;
  if (forms.quantized) quantize(x, ldx, pool);
  if (forms.int8_tiles) make_int8_tiles(x, ldx, pool);
  if (forms.bf16_tiles) make_bf16_tiles(x, ldx, pool);
  if (forms.int8_tiles || forms.bf16_tiles)
    grow(partial_, partial_floats() * sizeof(float) * static_cast<std::size_t>(pool.size()));
  if (forms.floats) {
    const int panels = divide_up(rows, kFloatPanelRows);
    grow(floats_, float_panel_bytes() * static_cast<std::size_t>(panels));
    pool.for_each(panels, [&](int panel, int) {
      transpose(x + static_cast<std::size_t>(panel * kFloatPanelRows) * ldx, ldx, panel);
    });
  }
}

void matmul(const PackedMatrix& w, const Activations& x, float* y, std::size_t ldy, ThreadPool& pool) {
  CHECK(w.columns() == x.columns(), "weights and activations differ in columns");
  CHECK(x.forms().covers(w.forms()), "the activations lack a form that the weights need");
  int tasks = 0;
  for (const PackedMatrix::Segment& segment : w.segments())
    tasks += divide_up(divide_up(segment.rows, kLanes), tiles_per_task(segment, x.rows(), pool.size()));
  pool.for_each(tasks, [&](int task, int worker) {
    for (const PackedMatrix::Segment& segment : w.segments()) {
      const int tiles = divide_up(segment.rows, kLanes), step = tiles_per_task(segment, x.rows(), pool.size());
      const int own = divide_up(tiles, step);
      if (task < own) {
        CHECK(segment.codebooks == by_codebooks(segment.type), "weights were packed for other kernels");
        const MatmulJob job = job_for(w, segment, x, y, ldy, task * step, std::min(step, tiles - task * step), worker);
        return kernels().matmul[format_of(segment.type)](&job);
      }
      task -= own;
    }
  });
}

}  // namespace ashlar::kernels
