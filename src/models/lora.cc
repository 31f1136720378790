#include "models/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

// Its rows one after the other, whatever the type.
Status check_finite(const LoraFile& file, const LoraWeight& weight, const kernels::RawMatrix& matrix) {
  std::vector<float> row(static_cast<std::size_t>(matrix.columns));
  const std::size_t bytes = kernels::row_bytes(matrix.type, matrix.columns);
  for (int r = 0; r < matrix.rows; ++r) {
    kernels::dequantize_row(matrix.type, matrix.data + bytes * static_cast<std::size_t>(r), row.data(), matrix.columns);
    if (!std::ranges::all_of(row, [](float x) { return std::isfinite(x); }))
      return Error{Code::corrupt, fmt::format("{}: the adapter of {} holds a value that is not finite", file.path,
                                              gguf::quoted(weight.name))};
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const LoraAdapter>> LoraAdapter::create(const LoraFile& file, const TensorPlaces& places) {
  auto adapter = std::make_shared<LoraAdapter>();
  ThreadPool alone(1);
  for (const LoraWeight& weight : file.weights) {
    const auto found = places.find(weight.name);
    if (found == places.end())
      return Error{Code::invalid, fmt::format("{}: the adapter is for another base: this model has no matrix {} that "
                                              "it could stand beside",
                                              file.path, gguf::quoted(weight.name))};
    const TensorPlace& place = found->second;
    if (weight.a.columns != place.columns || weight.b.rows != place.rows)
      return Error{Code::invalid,
                   fmt::format("{}: the adapter is for another base: its matrices for {} make [{}, {}], this model's "
                               "is [{}, {}]",
                               file.path, gguf::quoted(weight.name), weight.b.rows, weight.a.columns, place.rows,
                               place.columns)};
    TRY(check_finite(file, weight, weight.a));
    TRY(check_finite(file, weight, weight.b));
    Part part{.first_row = place.first_row, .scale = weight.scale};
    part.a = TRY(kernels::pack(std::span(&weight.a, 1), alone));
    part.b = TRY(kernels::pack(std::span(&weight.b, 1), alone));
    adapter->bytes_.count += part.a.bytes() + part.b.bytes();
    adapter->parts_[place.matrix].push_back(std::move(part));
  }
  return adapter;
}

std::span<const LoraAdapter::Part> LoraAdapter::parts(const kernels::PackedMatrix& matrix) const {
  const auto found = parts_.find(&matrix);
  if (found == parts_.end()) return {};
  return found->second;
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
    if (runs_.empty() || runs_.back().adapter != mine || runs_.back().count == kTogether)
      runs_.push_back({.adapter = mine, .first = i, .count = 0});
    ++runs_.back().count;
  }
  if (runs_.empty()) return;
  while (static_cast<int>(benches_.size()) < pool_.size()) benches_.push_back(std::make_unique<Bench>());
}

void LoraRows::add(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx, float* y, std::size_t ldy) {
  tasks_.clear();
  for (const Run& run : runs_)
    for (const LoraAdapter::Part& part : run.adapter->parts(matrix)) tasks_.push_back({&run, &part});
  pool_.for_each(static_cast<int>(tasks_.size()), [&](int task, int worker) {
    work(tasks_[static_cast<std::size_t>(task)], *benches_[static_cast<std::size_t>(worker)], x, ldx, y, ldy);
  });
}

void LoraRows::work(const Task& task, Bench& bench, const float* x, std::size_t ldx, float* y, std::size_t ldy) const {
  const auto& [a, b, first_row, scale] = *task.part;
  const auto count = static_cast<std::size_t>(task.run->count);
  const auto columns = static_cast<std::size_t>(a.columns()), rank = static_cast<std::size_t>(a.rows()),
             rows = static_cast<std::size_t>(b.rows());
  const std::span<const int> mine = std::span(order_).subspan(static_cast<std::size_t>(task.run->first), count);
  const auto reserve = [](std::vector<float>& room, std::size_t floats) {
    if (room.size() < floats) room.resize(floats);
  };
  reserve(bench.x, count * columns);
  reserve(bench.middle, count * rank);
  reserve(bench.y, count * rows);
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(bench.x.data() + i * columns, x + static_cast<std::size_t>(mine[i]) * ldx, columns * sizeof(float));
  bench.activations.assign(bench.x.data(), columns, task.run->count, a.columns(), a.forms(), bench.alone);
  kernels::matmul(a, bench.activations, bench.middle.data(), rank, bench.alone);
  bench.activations.assign(bench.middle.data(), rank, task.run->count, a.rows(), b.forms(), bench.alone);
  kernels::matmul(b, bench.activations, bench.y.data(), rows, bench.alone);
  for (std::size_t i = 0; i < count; ++i) {
    float* to = y + static_cast<std::size_t>(mine[i]) * ldy + static_cast<std::size_t>(first_row);
    const float* from = bench.y.data() + i * rows;
    for (std::size_t r = 0; r < rows; ++r) to[r] += scale * from[r];
  }
}

}  // namespace ashlar::models
