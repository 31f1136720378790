#include "models/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::models {
namespace {

constexpr int kTaskWeights = 32 * 1024;  // less is not worth waking a thread for

std::size_t size(int n) { return static_cast<std::size_t>(n); }

// So many of `unit` as make a task, where one has `weights`.
int task_step(int weights, int unit) { return std::max(1, kTaskWeights / weights / unit) * unit; }

// What reading costs is what an adapter costs in a step: whatever its type, it becomes BF16. That keeps 8 bits of
// weights that change others by little.
class Halved {
 public:
  // corrupt: a value that is not finite.
  static Result<Halved> create(const LoraFile& file, const LoraWeight& weight, const kernels::RawMatrix& matrix) {
    Halved out(matrix.columns);
    std::vector<float> row(size(matrix.columns));
    out.values_.resize(row.size() * size(matrix.rows));
    const std::size_t bytes = kernels::row_bytes(matrix.type, matrix.columns);
    for (std::size_t r = 0; r < size(matrix.rows); ++r) {
      kernels::dequantize_row(matrix.type, matrix.data + bytes * r, row.data(), matrix.columns);
      if (!std::ranges::all_of(row, [](float x) { return std::isfinite(x); }))
        return Error{Code::corrupt, fmt::format("{}: the adapter of {} holds a value that is not finite", file.path,
                                                gguf::quoted(weight.name))};
      const std::span<std::uint16_t> to(out.values_.data() + r * row.size(), row.size());
      kernels::quantize_row(kernels::Type::bf16, row.data(), std::as_writable_bytes(to).data(), matrix.columns);
    }
    return out;
  }
  const std::uint16_t* row(int r) const { return values_.data() + size(r) * size(columns_); }

 private:
  explicit Halved(int columns) : columns_(columns) {}
  int columns_;
  std::vector<std::uint16_t> values_;
};

// A part's matrices as they come from the file.
struct Source {
  LoraAdapter::Part part;
  Halved a, b;
};

// Whole lines of 64 bytes.
std::size_t a_elements(const LoraAdapter::Part& part) {
  return (size(part.rank) * size(kernels::narrow_inputs(part.columns)) + 31) / 32 * 32;
}
std::size_t b_elements(const LoraAdapter::Part& part) {
  return size((part.rows + kernels::kLanes - 1) / kernels::kLanes * kernels::kLanes) * size(part.rank);
}

// Into zeros. `ranks`: of the file.
void write_a(const Source& from, int ranks, std::uint16_t* to) {
  const int columns = from.part.columns;
  for (int r = 0; r < ranks; ++r)
    std::copy_n(from.a.row(r), columns, to + size(r) * size(kernels::narrow_inputs(columns)));
}
void write_b(const Source& from, int ranks, std::uint16_t* to) {
  constexpr std::size_t kTile = kernels::kLanes;
  for (std::size_t o = 0; o < size(from.part.rows); ++o) {
    const std::uint16_t* row = from.b.row(static_cast<int>(o));
    std::uint16_t* lane = to + o / kTile * kTile * size(from.part.rank) + o % kTile * 2;
    for (std::size_t r = 0; r < size(ranks); ++r) lane[r / 2 * 2 * kTile + r % 2] = row[r];
  }
}

Result<const TensorPlace*> place_of(const LoraFile& file, const LoraWeight& weight, const TensorPlaces& places) {
  const auto found = places.find(weight.name);
  if (found == places.end())
    return Error{Code::invalid, fmt::format("{}: the adapter is for another base: this model has no matrix {} that "
                                            "it could stand beside",
                                            file.path, gguf::quoted(weight.name))};
  const TensorPlace& place = found->second;
  if (weight.a.columns != place.columns || weight.b.rows != place.rows)
    return Error{
        Code::invalid,
        fmt::format("{}: the adapter is for another base: its matrices for {} make [{}, {}], this model's "
                    "is [{}, {}]",
                    file.path, gguf::quoted(weight.name), weight.a.columns, weight.b.rows, place.columns, place.rows)};
  return &place;
}

}  // namespace

Result<std::shared_ptr<const LoraAdapter>> LoraAdapter::create(const LoraFile& file, const TensorPlaces& places) {
  // By matrix, in the order of memory: that of a step, mostly.
  std::map<const kernels::PackedMatrix*, std::vector<std::pair<Source, int>>> stacks;
  std::size_t elements = 0;
  for (const LoraWeight& weight : file.weights) {
    const TensorPlace& place = *TRY(place_of(file, weight, places));
    const int rank = weight.a.rows;
    const Part part{.columns = place.columns,
                    .rank = rank + rank % 2,
                    .rows = place.rows,
                    .first_row = place.first_row,
                    .scale = weight.scale};
    elements += a_elements(part) + b_elements(part);
    Source source{part, TRY(Halved::create(file, weight, weight.a)), TRY(Halved::create(file, weight, weight.b))};
    stacks[place.matrix].emplace_back(std::move(source), rank);
  }
  // All in one piece, in the order in which a step reads them.
  auto adapter = std::make_shared<LoraAdapter>();
  adapter->memory_ = TRY(kernels::HugeMemory::allocate(elements * sizeof(std::uint16_t)));
  auto* to = reinterpret_cast<std::uint16_t*>(adapter->memory_.data());
  for (const auto& [matrix, sources] : stacks) {
    std::vector<Part>& parts = adapter->beside_[matrix];
    for (const auto& [source, rank] : sources) {
      parts.push_back(source.part);
      parts.back().a = to;
      write_a(source, rank, to);
      to += a_elements(source.part);
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
      parts[i].b = to;
      write_b(sources[i].first, sources[i].second, to);
      to += b_elements(parts[i]);
    }
  }
  return adapter;
}

std::span<const LoraAdapter::Part> LoraAdapter::beside(const kernels::PackedMatrix& matrix) const {
  const auto found = beside_.find(&matrix);
  return found == beside_.end() ? std::span<const Part>() : found->second;
}

void LoraRows::set(std::span<const LoraAdapter* const> rows) {
  order_.clear();
  runs_.clear();
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i] != nullptr) order_.push_back(static_cast<int>(i));
  const auto adapter = [&](int row) { return rows[static_cast<std::size_t>(row)]; };
  std::ranges::sort(order_, std::less<>(), [&](int row) { return std::pair(adapter(row), row); });
  for (int i = 0; i < static_cast<int>(order_.size()); ++i) {
    const LoraAdapter* mine = adapter(order_[static_cast<std::size_t>(i)]);
    if (runs_.empty() || runs_.back().adapter != mine || runs_.back().count == kernels::kNarrowRows)
      runs_.push_back({.adapter = mine, .first = i, .count = 0});
    ++runs_.back().count;
  }
}

void LoraRows::add(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx, float* y, std::size_t ldy) {
  a_tasks_.clear();
  b_tasks_.clear();
  std::size_t middle = 0;
  const auto cut = [&](std::vector<Task>& tasks, Task task, int outputs, int step) {
    for (task.first = 0; task.first < outputs; task.first += step) {
      task.count = std::min(step, outputs - task.first);
      tasks.push_back(task);
    }
  };
  for (const Run& run : runs_)
    for (const LoraAdapter::Part& part : run.adapter->beside(matrix)) {
      const Task task{.run = &run, .part = &part, .middle = middle, .first = 0, .count = 0};
      cut(a_tasks_, task, part.rank, task_step(part.columns, 4));
      cut(b_tasks_, task, part.rows, task_step(part.rank, 4 * kernels::kLanes));
      middle += size(run.count) * size(part.rank);
    }
  if (middle_.size() < middle) middle_.resize(middle);
  pool_.for_each(static_cast<int>(a_tasks_.size()), [&](int i, int) { multiply_a(a_tasks_[size(i)], x, ldx); });
  pool_.for_each(static_cast<int>(b_tasks_.size()), [&](int i, int) { multiply_b(b_tasks_[size(i)], y, ldy); });
}

void LoraRows::multiply_a(const Task& task, const float* x, std::size_t ldx) {
  const LoraAdapter::Part& part = *task.part;
  kernels::NarrowJob job{.weights = part.a + size(task.first) * size(kernels::narrow_inputs(part.columns)),
                         .inputs = part.columns,
                         .outputs = task.count,
                         .rows = task.run->count,
                         .scale = part.scale};
  for (int i = 0; i < job.rows; ++i) {
    job.x[i] = x + size(order_[size(task.run->first + i)]) * ldx;
    job.y[i] = middle_.data() + task.middle + size(i * part.rank + task.first);
  }
  kernels::kernels().narrow_in(&job);
}

void LoraRows::multiply_b(const Task& task, float* y, std::size_t ldy) {
  const LoraAdapter::Part& part = *task.part;
  kernels::NarrowJob job{.weights = part.b + size(task.first) * size(part.rank),
                         .inputs = part.rank,
                         .outputs = task.count,
                         .rows = task.run->count,
                         .scale = 1};
  for (int i = 0; i < job.rows; ++i) {
    job.x[i] = middle_.data() + task.middle + size(i * part.rank);
    job.y[i] = y + size(order_[size(task.run->first + i)]) * ldy + size(part.first_row + task.first);
  }
  kernels::kernels().narrow_out(&job);
}

}  // namespace ashlar::models
