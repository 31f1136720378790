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
constexpr int kAbreast = 4;              // jobs of as many adapters side by side
constexpr std::size_t kFewRows = 64;     // all of them are worth going side by side

std::size_t size(int n) { return static_cast<std::size_t>(n); }

void grow(auto& values, std::size_t count) {
  if (values.size() < count) values.resize(count);
}

// So many of `unit` as make a task, where one has `weights`.
int task_step(int weights, int unit) { return std::max(1, kTaskWeights / weights / unit) * unit; }

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

void LoraRows::list_sides(const kernels::PackedMatrix& matrix) {
  sides_.clear();
  std::size_t middle = 0, codes = 0, scales = 0;
  for (Run& run : runs_) {
    run.first_side = static_cast<int>(sides_.size());
    for (const LoraAdapter::Part& part : run.adapter->beside(matrix)) {
      sides_.push_back({&run, &part, middle, codes, scales});
      middle += size(run.count) * size(part.rank());
      codes += size(run.count) * size(kernels::narrow8_inputs(part.rank()));
      scales += size(run.count);
    }
    run.sides = static_cast<int>(sides_.size()) - run.first_side;
  }
  abreast_.clear();
  for (const Side& side : sides_) abreast_.push_back(&side);
  std::ranges::sort(abreast_, std::less<>(), [](const Side* side) { return std::pair(side->part->first_row, side); });
  int8_ = form_beside(matrix) == kernels::NarrowForm::int8;
  columns_ = matrix.columns();
  grow(middle_, middle);
  if (!int8_) return;
  grow(codes_, order_.size() * size(kernels::narrow8_inputs(columns_)));
  grow(scales_, order_.size());
  grow(middle_codes_, codes);
  grow(middle_scales_, scales);
}

// How many sides from abreast_[first] on have its shape and may go together.
int LoraRows::alike(std::size_t first) const {
  const LoraAdapter::Part& part = *abreast_[first]->part;
  int count = 1;
  for (; count < kAbreast && first + size(count) < abreast_.size(); ++count) {
    const LoraAdapter::Part& other = *abreast_[first + size(count)]->part;
    if (other.first_row != part.first_row || other.rank() != part.rank()) break;
  }
  return count;
}

bool LoraRows::prepare(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx) {
  if (runs_.empty()) return false;
  list_sides(matrix);
  if (sides_.empty()) return false;
  if (order_.size() > kFewRows && runs_.size() >= 2 * size(pool_.size()))
    prepare_runs(x, ldx);
  else
    prepare_abreast(x, ldx);
  return true;
}

// Enough runs for all threads: what is made of a run's rows stays in its thread's caches.
void LoraRows::prepare_runs(const float* x, std::size_t ldx) {
  pool_.for_each(static_cast<int>(runs_.size()), [&](int i, int) {
    const Run& run = runs_[size(i)];
    if (run.sides == 0) return;
    convert(run.first, run.count, x, ldx);
    for (const Side& side : std::span(sides_).subspan(size(run.first_side), size(run.sides))) {
      const Side* one = &side;
      multiply_a(std::span(&one, 1), 0, side.part->rank(), x, ldx);
      convert_middle(side);
    }
  });
}

void LoraRows::prepare_abreast(const float* x, std::size_t ldx) {
  const int rows = static_cast<int>(order_.size()), step = std::max(1, kTaskWeights / 2 / columns_);
  pool_.for_each((rows + step - 1) / step,
                 [&](int i, int) { convert(i * step, std::min(step, rows - i * step), x, ldx); });
  slices_.clear();
  const int outputs = task_step(columns_, 4);
  for (std::size_t i = 0; i < abreast_.size(); i += size(alike(i)))
    for (int rank = abreast_[i]->part->rank(), first = 0; first < rank; first += outputs)
      slices_.push_back({static_cast<int>(i), alike(i), first, std::min(outputs, rank - first)});
  pool_.for_each(static_cast<int>(slices_.size()), [&](int i, int) {
    const Slice& slice = slices_[size(i)];
    multiply_a(std::span(abreast_).subspan(size(slice.first_side), size(slice.sides)), slice.first, slice.count, x,
               ldx);
  });
  for (const Side& side : sides_) convert_middle(side);
}

void LoraRows::add(int first, int outputs, float* y, std::size_t ldy) const {
  for (std::size_t i = 0; i < abreast_.size();) {
    const int count = alike(i);
    const LoraAdapter::Part& part = *abreast_[i]->part;
    const int begin = std::max(first, part.first_row);
    const int end = std::min(first + outputs, part.first_row + part.b.outputs());
    if (begin < end)
      multiply_b(std::span(abreast_).subspan(i, size(count)), begin - part.first_row, end - begin, y, ldy);
    i += size(count);
  }
}

// Rows of order_ as codes.
void LoraRows::convert(int first, int rows, const float* x, std::size_t ldx) {
  for (std::size_t i = size(first); int8_ && i < size(first + rows); ++i)
    scales_[i] = kernels::kernels().narrow_codes(x + size(order_[i]) * ldx, columns_, kernels::kNarrow8InTop,
                                                 codes_.data() + i * size(kernels::narrow8_inputs(columns_)));
}

void LoraRows::multiply_a(std::span<const Side* const> sides, int first, int count, const float* x, std::size_t ldx) {
  const auto fill = [&](const Side& side, auto& job, auto set_x) {
    job.rows = side.run->count;
    for (int i = 0; i < job.rows; ++i) {
      set_x(i, size(side.run->first + i));
      job.y[i] = middle_.data() + side.middle + size(i * side.part->rank() + first);
    }
  };
  if (int8_) {
    kernels::Narrow8Job jobs[kAbreast];
    for (std::size_t j = 0; j < sides.size(); ++j) {
      jobs[j] = sides[j]->part->a.job8(first, count);
      fill(*sides[j], jobs[j], [&](int i, std::size_t row) {
        jobs[j].x[i] = codes_.data() + row * size(kernels::narrow8_inputs(columns_));
        jobs[j].x_scale[i] = scales_[row] * sides[j]->part->scale;
      });
    }
    return kernels::kernels().narrow8_in(jobs, static_cast<int>(sides.size()));
  }
  for (const Side* side : sides) {
    kernels::NarrowJob job = side->part->a.job(first, count, side->part->scale);
    fill(*side, job, [&](int i, std::size_t row) { job.x[i] = x + size(order_[row]) * ldx; });
    kernels::kernels().narrow_in(&job);
  }
}

void LoraRows::convert_middle(const Side& side) {
  const int rank = side.part->rank();
  for (std::size_t i = 0; int8_ && i < size(side.run->count); ++i)
    middle_scales_[side.scales + i] =
        kernels::kernels().narrow_codes(middle_.data() + side.middle + i * size(rank), rank, kernels::kNarrow8OutTop,
                                        middle_codes_.data() + side.codes + i * size(kernels::narrow8_inputs(rank)));
}

void LoraRows::multiply_b(std::span<const Side* const> sides, int first, int count, float* y, std::size_t ldy) const {
  const auto fill = [&](const Side& side, auto& job, auto set_x) {
    job.rows = side.run->count;
    for (int i = 0; i < job.rows; ++i) {
      set_x(i, size(i));
      job.y[i] = y + size(order_[size(side.run->first + i)]) * ldy + size(side.part->first_row + first);
    }
  };
  if (int8_) {
    kernels::Narrow8Job jobs[kAbreast];
    for (std::size_t j = 0; j < sides.size(); ++j) {
      jobs[j] = sides[j]->part->b.job8(first, count);
      fill(*sides[j], jobs[j], [&](int i, std::size_t row) {
        jobs[j].x[i] = middle_codes_.data() + sides[j]->codes + row * size(kernels::narrow8_inputs(jobs[j].inputs));
        jobs[j].x_scale[i] = middle_scales_[sides[j]->scales + row];
      });
    }
    return kernels::kernels().narrow8_out(jobs, static_cast<int>(sides.size()));
  }
  for (const Side* side : sides) {
    kernels::NarrowJob job = side->part->b.job(first, count);
    fill(*side, job,
         [&](int i, std::size_t row) { job.x[i] = middle_.data() + side->middle + row * size(job.inputs); });
    kernels::kernels().narrow_out(&job);
  }
}

}  // namespace ashlar::models
