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
  int8_ = form_beside(matrix) == kernels::NarrowForm::int8;
  columns_ = matrix.columns();
  grow(middle_, middle);
  if (!int8_) return;
  grow(codes_, order_.size() * size(kernels::narrow8_inputs(columns_)));
  grow(scales_, order_.size());
  grow(middle_codes_, codes);
  grow(middle_scales_, scales);
}

bool LoraRows::prepare(const kernels::PackedMatrix& matrix, const float* x, std::size_t ldx) {
  if (runs_.empty()) return false;
  list_sides(matrix);
  if (sides_.empty()) return false;
  const int runs = static_cast<int>(runs_.size());
  const auto sides_of = [&](int run) {
    return std::span(sides_).subspan(size(runs_[size(run)].first_side), size(runs_[size(run)].sides));
  };
  if (runs >= 2 * pool_.size()) {  // enough for all threads
    pool_.for_each(runs, [&](int i, int) {
      if (sides_of(i).empty()) return;
      convert(runs_[size(i)].first, runs_[size(i)].count, x, ldx);
      for (const Side& side : sides_of(i)) {
        multiply_a({&side, 0, side.part->rank()}, x, ldx);
        convert_middle(side);
      }
    });
    return true;
  }
  const int rows = static_cast<int>(order_.size()), step = std::max(1, kTaskWeights / 2 / columns_);
  pool_.for_each((rows + step - 1) / step,
                 [&](int i, int) { convert(i * step, std::min(step, rows - i * step), x, ldx); });
  slices_.clear();
  const int outputs = task_step(columns_, 4);
  for (const Side& side : sides_)
    for (int first = 0; first < side.part->rank(); first += outputs)
      slices_.push_back({&side, first, std::min(outputs, side.part->rank() - first)});
  pool_.for_each(static_cast<int>(slices_.size()), [&](int i, int) { multiply_a(slices_[size(i)], x, ldx); });
  for (const Side& side : sides_) convert_middle(side);
  return true;
}

void LoraRows::add(int first, int outputs, float* y, std::size_t ldy) const {
  for (const Side& side : sides_) {
    const int begin = std::max(first, side.part->first_row);
    const int end = std::min(first + outputs, side.part->first_row + side.part->b.outputs());
    if (begin < end) multiply_b(side, begin - side.part->first_row, end - begin, y, ldy);
  }
}

// Rows of order_ as codes.
void LoraRows::convert(int first, int rows, const float* x, std::size_t ldx) {
  for (std::size_t i = size(first); int8_ && i < size(first + rows); ++i)
    scales_[i] = kernels::kernels().narrow_codes(x + size(order_[i]) * ldx, columns_, kernels::kNarrow8InTop,
                                                 codes_.data() + i * size(kernels::narrow8_inputs(columns_)));
}

void LoraRows::multiply_a(const Slice& slice, const float* x, std::size_t ldx) {
  const auto& [run, part, middle, codes, scales] = *slice.side;
  const auto filled = [&](auto job, auto set_x) {
    job.rows = run->count;
    for (int i = 0; i < job.rows; ++i) {
      set_x(job, i, size(run->first + i));
      job.y[i] = middle_.data() + middle + size(i * part->rank() + slice.first);
    }
    return job;
  };
  if (int8_) {
    const auto job = filled(part->a.job8(slice.first, slice.count), [&](auto& to, int i, std::size_t row) {
      to.x[i] = codes_.data() + row * size(kernels::narrow8_inputs(columns_));
      to.x_scale[i] = scales_[row] * part->scale;
    });
    kernels::kernels().narrow8_in(&job);
  } else {
    const auto job = filled(part->a.job(slice.first, slice.count, part->scale),
                            [&](auto& to, int i, std::size_t row) { to.x[i] = x + size(order_[row]) * ldx; });
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

void LoraRows::multiply_b(const Side& side, int first, int outputs, float* y, std::size_t ldy) const {
  const auto& [run, part, middle, codes, scales] = side;
  const auto filled = [&](auto job, auto set_x) {
    job.rows = run->count;
    for (int i = 0; i < job.rows; ++i) {
      set_x(job, i, size(i));
      job.y[i] = y + size(order_[size(run->first + i)]) * ldy + size(part->first_row + first);
    }
    return job;
  };
  if (int8_) {
    const auto job = filled(part->b.job8(first, outputs), [&](auto& to, int i, std::size_t row) {
      to.x[i] = middle_codes_.data() + codes + row * size(kernels::narrow8_inputs(part->rank()));
      to.x_scale[i] = middle_scales_[scales + row];
    });
    kernels::kernels().narrow8_out(&job);
  } else {
    const auto job = filled(part->b.job(first, outputs), [&](auto& to, int i, std::size_t row) {
      to.x[i] = middle_.data() + middle + row * size(part->rank());
    });
    kernels::kernels().narrow_out(&job);
  }
}

}  // namespace ashlar::models
