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

constexpr int kAbreast = 4;   // runs of one task: what is made of their rows is to stay in its thread's caches
constexpr int kTogether = 8;  // runs whose jobs go to the kernels together

std::size_t size(int n) { return static_cast<std::size_t>(n); }

void grow(auto& values, std::size_t count) {
  if (values.size() < count) values.resize(count);
}

// Where a part of an adapter goes, and where it comes from.
struct Source {
  LoraAdapter::Part part;
  const LoraWeight* weight;
};

// What reading costs is what an adapter costs in a step: so whatever its type, it becomes one of 8 or 16 bits.
kernels::NarrowForm form_beside(const kernels::PackedMatrix& matrix) {
  const kernels::Forms forms = matrix.forms();
  return forms.floats || forms.bf16_tiles ? kernels::NarrowForm::bf16 : kernels::NarrowForm::int8;
}

// corrupt: a value that is not finite.
Status pack(const LoraFile& file, const LoraWeight& weight, const kernels::RawMatrix& from, auto& to) {
  std::vector<float> row(size(from.columns));
  const std::size_t bytes = kernels::row_bytes(from.type, from.columns);
  for (int r = 0; r < from.rows; ++r) {
    kernels::dequantize_row(from.type, from.data + bytes * size(r), row.data(), from.columns);
    if (!std::ranges::all_of(row, [](float x) { return std::isfinite(x); }))
      return Error{Code::corrupt, fmt::format("{}: the adapter of {} holds a value that is not finite", file.path,
                                              gguf::quoted(weight.name))};
    to.pack(r, row);
  }
  return {};
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
  std::map<const kernels::PackedMatrix*, std::vector<Source>> stacks;
  std::size_t bytes = 0;
  for (const LoraWeight& weight : file.weights) {
    const TensorPlace& place = *TRY(place_of(file, weight, places));
    const kernels::NarrowForm form = form_beside(*place.matrix);
    const int rank = weight.a.rows + weight.a.rows % 2;
    const Part part{.a = {form, place.columns, rank},
                    .b = {form, rank, place.rows},
                    .first_row = place.first_row,
                    .scale = weight.scale};
    bytes += part.a.bytes() + part.b.bytes();
    stacks[place.matrix].push_back({part, &weight});
  }
  // All in one piece, in the order in which a step reads them.
  auto adapter = std::make_shared<LoraAdapter>();
  adapter->memory_ = TRY(kernels::HugeMemory::allocate(bytes));
  std::byte* to = adapter->memory_.data();
  for (auto& [matrix, sources] : stacks) {
    for (auto& [part, weight] : sources) {
      part.a.place(std::exchange(to, to + part.a.bytes()));
      TRY(pack(file, *weight, weight->a, part.a));
    }
    for (auto& [part, weight] : sources) {
      part.b.place(std::exchange(to, to + part.b.bytes()));
      TRY(pack(file, *weight, weight->b, part.b));
      adapter->beside_[matrix].push_back(part);
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

void LoraRows::Codes::make_room(std::size_t rows, int columns) {
  ld_ = size(kernels::narrow8_codes_of(columns));
  ld_scales_ = size(kernels::narrow8_blocks(columns));
  grow(codes_, rows * ld_);
  grow(scales_, rows * ld_scales_);
}

void LoraRows::Codes::convert(std::size_t row, const float* x, int columns) {
  kernels::kernels().narrow8_codes(x, columns, codes_.data() + row * ld_, scales_.data() + row * ld_scales_);
}

void LoraRows::Codes::set(kernels::Narrow8Job& job, std::size_t first_row) const {
  job.x = codes_.data() + first_row * ld_;
  job.ldx = ld_;
  job.x_scales = scales_.data() + first_row * ld_scales_;
  job.ld_scales = ld_scales_;
}

void LoraRows::list_sides(const kernels::PackedMatrix& matrix) {
  sides_.clear();
  std::size_t middle = 0;
  most_rank_ = 0;
  for (Run& run : runs_) {
    run.first_side = static_cast<int>(sides_.size());
    for (const LoraAdapter::Part& part : run.adapter->beside(matrix)) {
      sides_.push_back({&run, &part, middle});
      middle += size(run.count);
      most_rank_ = std::max(most_rank_, part.rank());
    }
    run.sides = static_cast<int>(sides_.size()) - run.first_side;
  }
  int8_ = form_beside(matrix) == kernels::NarrowForm::int8;
  columns_ = matrix.columns();
  grow(middle_, middle * size(most_rank_));
  if (!int8_) return;
  x_codes_.make_room(order_.size(), columns_);
  middle_codes_.make_room(middle, most_rank_);
}

bool LoraRows::prepare(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx) {
  if (runs_.empty()) return false;
  list_sides(matrix);
  if (sides_.empty()) return false;
  // What is made of a run's rows stays in its thread's caches.
  const int runs = static_cast<int>(runs_.size());
  const int abreast = std::clamp(runs / pool_.size(), 1, kAbreast);
  pool_.for_each((runs + abreast - 1) / abreast, [&](int i, int) {
    const auto some = std::span(runs_).subspan(size(i * abreast), size(std::min(abreast, runs - i * abreast)));
    for (const Run& run : some)
      if (int8_ && run.sides > 0) convert(run, x, ldx);
    each_abreast(some, [&](Sides sides) {
      multiply_a(sides, x, ldx);
      for (const Side* side : sides)
        if (int8_) convert_middle(*side);
    });
  });
  return true;
}

void LoraRows::add(int first, int outputs, float* y, std::size_t ldy) const {
  for (std::size_t i = 0; i < runs_.size(); i += size(kTogether))
    each_abreast(std::span(runs_).subspan(i, std::min(size(kTogether), runs_.size() - i)),
                 [&](Sides sides) { multiply_b(sides, first, outputs, y, ldy); });
}

// The first sides of some runs, at most kTogether, then the second ones, and so on.
void LoraRows::each_abreast(std::span<const Run> runs, FunctionRef<void(Sides)> use) const {
  for (int k = 0;; ++k) {
    const Side* sides[kTogether];
    std::size_t count = 0;
    for (const Run& run : runs)
      if (k < run.sides) sides[count++] = &sides_[size(run.first_side + k)];
    if (count == 0) return;
    use({sides, count});
  }
}

void LoraRows::convert(const Run& run, const float* x, std::size_t ldx) {
  for (std::size_t i = size(run.first); i < size(run.first + run.count); ++i)
    x_codes_.convert(i, x + size(order_[i]) * ldx, columns_);
}

void LoraRows::multiply_a(Sides sides, const float* x, std::size_t ldx) {
  kernels::Narrow8Job jobs[kTogether];
  for (std::size_t j = 0; j < sides.size(); ++j) {
    const Side& side = *sides[j];
    const auto fill = [&](auto& job) {
      job.rows = side.run->count;
      for (int i = 0; i < job.rows; ++i) job.y[i] = middle_.data() + middle_at(side, i);
    };
    const LoraAdapter::Part& part = *side.part;
    if (int8_) {
      jobs[j] = part.a.job8(0, part.rank(), part.scale);
      x_codes_.set(jobs[j], size(side.run->first));
      fill(jobs[j]);
      continue;
    }
    kernels::NarrowJob job = part.a.job(0, part.rank(), part.scale);
    fill(job);
    for (int i = 0; i < job.rows; ++i) job.x[i] = x + size(order_[size(side.run->first + i)]) * ldx;
    kernels::kernels().narrow_in(&job);
  }
  if (int8_) kernels::kernels().narrow8(jobs, static_cast<int>(sides.size()));
}

void LoraRows::convert_middle(const Side& side) {
  for (int i = 0; i < side.run->count; ++i)
    middle_codes_.convert(side.middle + size(i), middle_.data() + middle_at(side, i), side.part->rank());
}

// As far as they have outputs in [first, first + outputs).
void LoraRows::multiply_b(Sides sides, int first, int outputs, float* y, std::size_t ldy) const {
  kernels::Narrow8Job jobs[kTogether];
  int count = 0;
  for (const Side* side : sides) {
    const LoraAdapter::Part& part = *side->part;
    const int begin = std::max(first, part.first_row);
    const int end = std::min(first + outputs, part.first_row + part.b.outputs());
    if (begin >= end) continue;
    const auto fill = [&](auto& job) {
      job.rows = side->run->count;
      for (int i = 0; i < job.rows; ++i) job.y[i] = y + size(order_[size(side->run->first + i)]) * ldy + size(begin);
    };
    if (int8_) {
      kernels::Narrow8Job& job = jobs[count++] = part.b.job8(begin - part.first_row, end - begin);
      middle_codes_.set(job, side->middle);
      fill(job);
      continue;
    }
    kernels::NarrowJob job = part.b.job(begin - part.first_row, end - begin);
    fill(job);
    for (int i = 0; i < job.rows; ++i) job.x[i] = middle_.data() + middle_at(*side, i);
    kernels::kernels().narrow_out(&job);
  }
  kernels::kernels().narrow8(jobs, count);
}

}  // namespace ashlar::models
