#include "kernels/matrix.h"

#include <algorithm>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr int kQuantizeElements = 16 * 1024;      // of one task
constexpr std::size_t kStreamBytes = 128 * 1024;  // of weights in one task
// Tiles of one task when there are many rows: they stay in L2. Float kernels take them by threes.
constexpr int kGemmTiles = 4, kFloatGemmTiles = 6;

int divide_up(int n, int by) { return (n + by - 1) / by; }

void grow(HugeMemory& memory, std::size_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = HugeMemory();
  auto fresh = HugeMemory::allocate(bytes);
  CHECK(fresh.has_value(), "no memory for activations");
  memory = std::move(*fresh);
}

// The smallest width of a float panel that has room for `rows`.
int panel_width(int rows) { return rows >= 5 ? 8 : rows >= 3 ? 4 : rows; }

// Tiles of one task: enough bytes to be worth fetching, few enough that all threads share the work.
int tiles_per_task(const PackedMatrix::Segment& segment, int rows, int threads) {
  const int tiles = divide_up(segment.rows, kLanes);
  const int stream = static_cast<int>(std::clamp<std::size_t>(kStreamBytes / segment.tile_bytes, 1, 64));
  const int many = type_info(segment.type).block == 1 ? kFloatGemmTiles : kGemmTiles;
  const int wish = rows > kPanelRows ? many : stream;
  return std::clamp(tiles / (4 * threads), 1, wish);
}

MatmulJob job_for(const PackedMatrix& w, const PackedMatrix::Segment& segment, const Activations& x, float* y,
                  std::size_t ldy, int tile, int tiles) {
  const bool floats = type_info(segment.type).block == 1;
  const int first = tile * kLanes;
  return {.tiles = reinterpret_cast<const std::uint8_t*>(w.data() + segment.offset) +
                   segment.tile_bytes * static_cast<std::size_t>(tile),
          .tile_bytes = segment.tile_bytes,
          .outputs = std::min(segment.rows - first, tiles * kLanes),
          .units = segment.units,
          .x = floats ? x.floats() : x.quantized(),
          .panel_bytes = floats ? x.float_panel_bytes() : x.quantized_panel_bytes(),
          .rows = x.rows(),
          .y = y + segment.first_row + first,
          .ldy = ldy};
}

}  // namespace

std::size_t Activations::quantized_panel_bytes() const {
  return static_cast<std::size_t>(columns_ / kBlock) * sizeof(PanelBlock);
}

// An even number of columns: BF16 weights come in pairs.
std::size_t Activations::float_panel_bytes() const {
  return static_cast<std::size_t>(columns_ + columns_ % 2) * kFloatPanelRows * sizeof(float);
}

void Activations::transpose(const float* x, std::size_t ldx, int panel) {
  const int rows = std::min(kFloatPanelRows, rows_ - panel * kFloatPanelRows), width = panel_width(rows);
  auto* out = reinterpret_cast<float*>(floats_.data() + float_panel_bytes() * static_cast<std::size_t>(panel));
  for (int k = 0; k < columns_ + columns_ % 2; ++k)
    for (int r = 0; r < width; ++r)
      out[k * width + r] =
          r < rows && k < columns_ ? x[static_cast<std::size_t>(r) * ldx + static_cast<std::size_t>(k)] : 0;
}

void Activations::assign(const float* x, std::size_t ldx, int rows, int columns, Forms forms, ThreadPool& pool) {
  CHECK(!forms.quantized || columns % kBlock == 0, "quantized activations are whole blocks of 32 columns");
  rows_ = rows;
  columns_ = columns;
  forms_ = forms;
  if (forms.quantized) {
    const int panels = divide_up(rows, kPanelRows);
    grow(quantized_, quantized_panel_bytes() * static_cast<std::size_t>(panels));
    const int width = std::max(kBlock, kQuantizeElements / std::min(rows, kPanelRows) / kBlock * kBlock);
    const int pieces = divide_up(columns, width);
    auto* out = reinterpret_cast<PanelBlock*>(quantized_.data());
    pool.for_each(panels * pieces, [&](int task, int) {
      const int panel = task / pieces, column = task % pieces * width;
      kernels().quantize_panel(
          x + static_cast<std::size_t>(panel * kPanelRows) * ldx + column, ldx,
          std::min(kPanelRows, rows - panel * kPanelRows), std::min(width, columns - column),
          out + static_cast<std::size_t>(panel) * static_cast<std::size_t>(columns / kBlock) + column / kBlock);
    });
  }
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
  const Forms need = w.forms();
  CHECK((x.forms().quantized || !need.quantized) && (x.forms().floats || !need.floats),
        "the activations lack a form that the weights need");
  int tasks = 0;
  for (const PackedMatrix::Segment& segment : w.segments())
    tasks += divide_up(divide_up(segment.rows, kLanes), tiles_per_task(segment, x.rows(), pool.size()));
  pool.for_each(tasks, [&](int task, int) {
    for (const PackedMatrix::Segment& segment : w.segments()) {
      const int tiles = divide_up(segment.rows, kLanes), step = tiles_per_task(segment, x.rows(), pool.size());
      const int own = divide_up(tiles, step);
      if (task < own) {
        const MatmulJob job = job_for(w, segment, x, y, ldy, task * step, std::min(step, tiles - task * step));
        return kernels().matmul[format_of(segment.type)](&job);
      }
      task -= own;
    }
  });
}

}  // namespace ashlar::kernels
