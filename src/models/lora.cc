#include "models/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <utility>

#include "kernels/blocks.h"
#include "models/packed_image.h"

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

// What reading costs is what an adapter costs in a step: F32 becomes BF16, of which tiles read every product anyway.
// That keeps 8 bits of weights that change others by little.
struct Halved {
  kernels::RawMatrix matrix;
  std::vector<std::byte> bytes;
};
Halved halved(const kernels::RawMatrix& matrix) {
  Halved out{.matrix = matrix};
  if (matrix.type != kernels::Type::f32) return out;
  const std::size_t from = kernels::row_bytes(matrix.type, matrix.columns);
  const std::size_t to = kernels::row_bytes(kernels::Type::bf16, matrix.columns);
  std::vector<float> row(static_cast<std::size_t>(matrix.columns));
  out.bytes.resize(to * static_cast<std::size_t>(matrix.rows));
  for (std::size_t r = 0; r < static_cast<std::size_t>(matrix.rows); ++r) {
    std::memcpy(row.data(), matrix.data + from * r, from);
    kernels::quantize_row(kernels::Type::bf16, row.data(), out.bytes.data() + to * r, matrix.columns);
  }
  out.matrix.type = kernels::Type::bf16;
  out.matrix.data = out.bytes.data();
  return out;
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
  auto adapter = std::make_shared<LoraAdapter>();
  // What stands beside each matrix: the A's, then the B's, with what they become.
  struct Stack {
    std::vector<Halved> a, b;
  };
  std::map<const kernels::PackedMatrix*, Stack> stacks;
  for (const LoraWeight& weight : file.weights) {
    const TensorPlace& place = *TRY(place_of(file, weight, places));
    TRY(check_finite(file, weight, weight.a));
    TRY(check_finite(file, weight, weight.b));
    Stack& stack = stacks[place.matrix];
    Part part{.first_row = place.first_row, .scale = weight.scale};
    for (const Halved& before : stack.a) part.first_rank += before.matrix.rows;
    adapter->beside_[place.matrix].parts.push_back(std::move(part));
    stack.a.push_back(halved(weight.a));
    stack.b.push_back(halved(weight.b));
  }
  // All in one piece of memory, in the order in which a step reads them: small matrices with pages of their own would
  // wait for memory at each.
  std::vector<std::vector<kernels::RawMatrix>> raw;
  for (const auto& [matrix, stack] : stacks) {
    raw.emplace_back();
    for (const Halved& a : stack.a) raw.back().push_back(a.matrix);
    for (const Halved& b : stack.b) raw.push_back({b.matrix});
  }
  std::vector<std::size_t> sections;
  for (const auto& stacked : raw) sections.push_back(TRY(kernels::packed_bytes(stacked)));
  const std::shared_ptr<PackedImage> image = TRY(PackedImage::allocate(sections));
  adapter->bytes_ = {image->bytes().size()};
  ThreadPool alone(1);
  std::size_t next = 0;
  const auto pack = [&]() -> Result<kernels::PackedMatrix> {
    const std::size_t at = next++;
    return kernels::pack_into(raw[at], image->room(at), image, alone);
  };
  for (const auto& [matrix, stack] : stacks) {
    Beside& beside = adapter->beside_[matrix];
    beside.a = TRY(pack());
    for (Part& part : beside.parts) part.b = TRY(pack());
  }
  return adapter;
}

const LoraAdapter::Beside* LoraAdapter::beside(const kernels::PackedMatrix& matrix) const {
  const auto found = beside_.find(&matrix);
  return found == beside_.end() ? nullptr : &found->second;
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
    if (const LoraAdapter::Beside* beside = run.adapter->beside(matrix)) tasks_.push_back({&run, beside});
  pool_.for_each(static_cast<int>(tasks_.size()), [&](int task, int worker) {
    work(tasks_[static_cast<std::size_t>(task)], *benches_[static_cast<std::size_t>(worker)], x, ldx, y, ldy);
  });
}

void LoraRows::work(const Task& task, Bench& bench, const float* x, std::size_t ldx, float* y, std::size_t ldy) const {
  const auto& [a, parts] = *task.beside;
  const int rows = task.run->count;
  const auto count = static_cast<std::size_t>(rows), columns = static_cast<std::size_t>(a.columns()),
             ranks = static_cast<std::size_t>(a.rows());
  const std::span<const int> mine = std::span(order_).subspan(static_cast<std::size_t>(task.run->first), count);
  const auto reserve = [](std::vector<float>& room, std::size_t floats) {
    if (room.size() < floats) room.resize(floats);
  };
  reserve(bench.x, count * columns);
  reserve(bench.middle, count * ranks);
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(bench.x.data() + i * columns, x + static_cast<std::size_t>(mine[i]) * ldx, columns * sizeof(float));
  bench.activations.assign(bench.x.data(), columns, rows, a.columns(), a.forms(), bench.alone);
  kernels::matmul(a, bench.activations, bench.middle.data(), ranks, bench.alone);
  for (const LoraAdapter::Part& part : parts) {
    const auto outputs = static_cast<std::size_t>(part.b.rows());
    reserve(bench.y, count * outputs);
    bench.activations.assign(bench.middle.data() + part.first_rank, ranks, rows, part.b.columns(), part.b.forms(),
                             bench.alone);
    kernels::matmul(part.b, bench.activations, bench.y.data(), outputs, bench.alone);
    for (std::size_t i = 0; i < count; ++i) {
      float* to = y + static_cast<std::size_t>(mine[i]) * ldy + static_cast<std::size_t>(part.first_row);
      const float* from = bench.y.data() + i * outputs;
      for (std::size_t r = 0; r < outputs; ++r) to[r] += part.scale * from[r];
    }
  }
}

}  // namespace ashlar::models
