#include "models/quantizers/descent.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/kernels.h"
#include "models/quantizers/grid.h"

namespace ashlar::models {

using kernels::Parts;
using kernels::Type;

namespace {

constexpr int kColumns = 256;  // moved between two products with H: whole blocks of every type

struct Range {
  int least, most;
};

// What the factors of a super-block's scales may be.
Range scale_range(Type type) {
  switch (type) {
    case Type::q2_k:
      return {0, 15};
    case Type::q3_k:
    case Type::iq4_xs:
      return {-32, 31};
    case Type::q6_k:
      return {-128, 127};
    default:
      return {0, 63};
  }
}

// Steps (s, m) along two directions that lower a quadratic the most: [ss sm; sm mm] (s, m) = -(gs, gm).
std::pair<float, float> solve(double ss, double sm, double mm, double gs, double gm) {
  const double det = ss * mm - sm * sm;
  if (det > 1e-9 * ss * mm)
    return {static_cast<float>((sm * gm - mm * gs) / det), static_cast<float>((sm * gs - ss * gm) / det)};
  return {ss > 0 ? static_cast<float>(-gs / ss) : 0, 0};
}

}  // namespace

// Some columns of one row: whole blocks.
class Descent::Row {
 public:
  // gradient[size] is kept up to date; moved[size] gets by how much each value moved.
  Row(Type type, const float* h, int size, float* gradient, float* moved)
      : type_(type), h_(h), size_(size), block_(kernels::type_info(type_).block), gradient_(gradient), moved_(moved) {}

  void descend(Parts* parts) {
    for (int at = 0; at < size_; at += block_) {
      Parts& here = parts[at / block_];
      move_scales(here, at);
      try_scales(here, at);
      move_codes(here, at);
    }
  }

 private:
  const float* h(int row) const { return h_ + static_cast<std::ptrdiff_t>(row) * size_; }

  // `count` columns from `column` on.
  void move(int column, const float* by, int count) {
    kernels::kernels().add_rows(h(column), static_cast<std::size_t>(size_), by, count, size_, gradient_);
    for (int i = 0; i < count; ++i) moved_[column + i] += by[i];
  }

  void move_codes(Parts& parts, int at) {
    const Grid grid(type_, parts);
    for (int i = 0; i < block_; ++i) {
      const float own = h(at + i)[at + i], before = grid.value(i);
      if (!(own > 0)) continue;
      const auto [code, value] = grid.round(before - gradient_[at + i] / own, i);
      if (value == before) continue;
      parts.codes[i] = code;
      const float by = value - before;
      move(at + i, &by, 1);
    }
  }

  void move_scales(Parts& parts, int at) {
    const kernels::Layout& layout = kernels::kLayouts[kernels::format_of(type_)];
    if (layout.blocks > 1) {
      const int sub = kernels::kBlock / layout.subs;
      for (int i = 0; i < block_; i += sub) move_factors(parts, at, i, sub);
    }
    move_whole(parts, at);
  }

  // H x for the columns [at, at + count) alone.
  void times(int at, int count, const float* x, float* y) const {
    std::fill_n(y, count, 0.0f);
    kernels::kernels().add_rows(h(at) + at, static_cast<std::size_t>(size_), x, count, count, y);
  }

  // Along which the values of [at, at + count) move with the scale and with the min.
  struct Directions {
    float scale[kColumns], min[kColumns];
  };
  std::pair<float, float> best_steps(const Directions& to, int at, int count, bool min) const {
    float h_scale[kColumns], h_min[kColumns];
    times(at, count, to.scale, h_scale);
    if (min) times(at, count, to.min, h_min);
    double ss = 0, sm = 0, mm = 0, gs = 0, gm = 0;
    for (int i = 0; i < count; ++i) {
      ss += double{to.scale[i]} * double{h_scale[i]};
      gs += double{to.scale[i]} * double{gradient_[at + i]};
      if (!min) continue;
      sm += double{to.min[i]} * double{h_scale[i]};
      mm += double{to.min[i]} * double{h_min[i]};
      gm += double{to.min[i]} * double{gradient_[at + i]};
    }
    return solve(ss, sm, mm, gs, gm);
  }

  // Takes `parts` as they have become where that costs less than `before` did, for elements [from, from + count).
  void settle(Parts& parts, const Parts& before, int at, int from, int count) {
    const Grid now(type_, parts), then(type_, before);
    float by[kColumns], h_by[kColumns];
    for (int i = 0; i < count; ++i) by[i] = now.value(from + i) - then.value(from + i);
    times(at + from, count, by, h_by);
    double change = 0;
    for (int i = 0; i < count; ++i) change += double{by[i]} * (2 * double{gradient_[at + from + i]} + double{h_by[i]});
    if (!(change < 0)) {
      parts = before;
      return;
    }
    move(at + from, by, count);
  }

  // Codes of elements [from, from + count) anew, under scales that are no longer those of `before`.
  void fit_codes(Parts& parts, const Parts& before, int at, int from, int count) const {
    const Grid now(type_, parts), then(type_, before);
    float gradient[kColumns];
    std::copy_n(gradient_ + at + from, count, gradient);
    for (int i = 0; i < count; ++i) {
      const float* row = h(at + from + i) + at + from;
      const float old = then.value(from + i), slope = gradient[i];
      const auto [code, value] = now.round(row[i] > 0 ? old - slope / row[i] : old, from + i);
      parts.codes[from + i] = code;
      const float by = value - old;
      kernels::kernels().add_rows(row, 0, &by, 1, count, gradient);
    }
  }

  // Other scales, with codes of their own. The middle of the range stays where it is.
  void try_scales(Parts& parts, int at) {
    const kernels::Layout& layout = kernels::kLayouts[kernels::format_of(type_)];
    const float middle = static_cast<float>((1 << layout.bits) - 1) / 2;
    if (layout.blocks == 1) {
      for (const float factor : {0.9f, 0.96f, 1.04f}) {
        const Parts before = parts;
        const Grid grid(type_, before);
        parts.d = kernels::f32_to_f16(grid.d * factor);
        if (layout.min) parts.dmin = kernels::f32_to_f16(grid.dmin + grid.d * (1 - factor) * middle);
        fit_codes(parts, before, at, 0, block_);
        settle(parts, before, at, 0, block_);
      }
      return;
    }
    const Range range = scale_range(type_);
    const int sub = kernels::kBlock / layout.subs;
    for (int from = 0; from < block_; from += sub)
      for (const int step : {-1, 1}) {
        const int index = from / sub, scale = parts.scales[index] + step;
        if (scale < range.least || scale > range.most) continue;
        const Parts before = parts;
        const Grid grid(type_, before);
        parts.scales[index] = static_cast<std::int8_t>(scale);
        if (layout.min && grid.dmin > 0) {
          const float min =
              static_cast<float>(before.mins[index]) + static_cast<float>(step) * grid.d * middle / grid.dmin;
          parts.mins[index] =
              static_cast<std::uint8_t>(std::nearbyint(std::clamp(min, 0.0f, static_cast<float>(range.most))));
        }
        fit_codes(parts, before, at, from, sub);
        settle(parts, before, at, from, sub);
      }
  }

  // The block's own scale and min, or what all factors are multiplied with.
  void move_whole(Parts& parts, int at) {
    const Grid grid(type_, parts);
    Directions to;
    for (int i = 0; i < block_; ++i) {
      const float level = grid.level(parts.codes[i]);
      to.scale[i] = grid.super() ? static_cast<float>(parts.scales[i / grid.sub]) * level : level;
      to.min[i] = !grid.layout.min ? 0 : grid.super() ? -static_cast<float>(parts.mins[i / grid.sub]) : 1;
    }
    const auto [s, m] = best_steps(to, at, block_, grid.layout.min);
    const Parts before = parts;
    parts.d = kernels::f32_to_f16(grid.d + s);
    if (grid.layout.min) parts.dmin = kernels::f32_to_f16(grid.dmin + m);
    if (parts.d == before.d && (!grid.layout.min || parts.dmin == before.dmin)) return;
    settle(parts, before, at, 0, block_);
  }

  // The whole numbers of one sub-block.
  void move_factors(Parts& parts, int at, int from, int count) {
    const Grid grid(type_, parts);
    const int index = from / grid.sub;
    Directions to;
    for (int i = 0; i < count; ++i) {
      to.scale[i] = grid.d * grid.level(parts.codes[from + i]);
      to.min[i] = -grid.dmin;
    }
    const auto [s, m] = best_steps(to, at + from, count, grid.layout.min);
    const Range range = scale_range(type_);
    const Parts before = parts;
    const auto near = [&](float value) {
      return static_cast<int>(
          std::nearbyint(std::clamp(value, static_cast<float>(range.least), static_cast<float>(range.most))));
    };
    parts.scales[index] = static_cast<std::int8_t>(near(static_cast<float>(before.scales[index]) + s));
    if (grid.layout.min)
      parts.mins[index] = static_cast<std::uint8_t>(near(static_cast<float>(before.mins[index]) + m));
    if (parts.scales[index] == before.scales[index] && (!grid.layout.min || parts.mins[index] == before.mins[index]))
      return;
    settle(parts, before, at, from, count);
  }

  Type type_;
  const float* h_;
  int size_, block_;
  float* gradient_;
  float* moved_;
};

Descent::Descent(Type type, Pieces h, int n, ThreadPool& pool) : type_(type), h_(std::move(h)), n_(n), pool_(pool) {}

Result<kernels::PackedMatrix> Descent::strip(int row, int rows, int column, int columns) {
  constexpr int kTile = 32;
  strip_.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  pool_.for_each((rows + kTile - 1) / kTile, [&](int tile, int) {
    const int first = tile * kTile;
    h_(row + first, std::min(kTile, rows - first), column, columns,
       strip_.data() + static_cast<std::ptrdiff_t>(first) * columns);
  });
  const kernels::RawMatrix raw{
      .type = Type::f32, .rows = rows, .columns = columns, .data = reinterpret_cast<const std::byte*>(strip_.data())};
  return kernels::pack({&raw, 1}, pool_);
}

Status Descent::begin(std::span<const float> w, std::span<const float> b, std::span<const Parts> parts) {
  const auto n = static_cast<std::size_t>(n_);
  const int rows = static_cast<int>(w.size() / n), block = kernels::type_info(type_).block, blocks = n_ / block;
  moved_.resize(w.size());
  gradient_.resize(w.size());
  pool_.for_each(rows, [&](int r, int) {
    for (int c = 0; c < blocks; ++c) {
      const Grid grid(type_, parts[static_cast<std::size_t>(r * blocks + c)]);
      for (int i = 0; i < block; ++i) {
        const auto at = static_cast<std::size_t>(r) * n + static_cast<std::size_t>(c * block + i);
        moved_[at] = grid.value(i) - w[at];
      }
    }
  });
  for (int first = 0; first < n_; first += kColumns) {
    const int size = std::min(kColumns, n_ - first);
    const auto packed = TRY(strip(first, size, 0, n_));
    if (first == 0) activations_.assign(moved_.data(), n, rows, n_, packed.forms(), pool_);
    kernels::matmul(packed, activations_, gradient_.data() + first, n, pool_);
  }
  for (std::size_t i = 0; i < b.size(); ++i) gradient_[i] -= b[i];
  return {};
}

// What moved in columns [begin, begin + size) reaches the gradients of all others.
Status Descent::spread(int rows, int begin, int size) {
  const auto n = static_cast<std::size_t>(n_);
  const auto packed = TRY(strip(0, n_, begin, size));
  activations_.assign(moved_.data(), static_cast<std::size_t>(size), rows, size, packed.forms(), pool_);
  y_.resize(static_cast<std::size_t>(rows) * n);
  kernels::matmul(packed, activations_, y_.data(), n, pool_);
  pool_.for_each(rows, [&](int r, int) {
    float* to = gradient_.data() + static_cast<std::size_t>(r) * n;
    const float* from = y_.data() + static_cast<std::size_t>(r) * n;
    for (int i = 0; i < n_; ++i)
      if (i < begin || i >= begin + size) to[i] += from[i];  // those know already
  });
  return {};
}

Status Descent::run(std::span<const float> w, std::span<const float> b, std::span<Parts> parts, int rounds) {
  const auto n = static_cast<std::size_t>(n_);
  const int rows = static_cast<int>(w.size() / n), block = kernels::type_info(type_).block, blocks = n_ / block;
  TRY(begin(w, b, parts));
  for (int round = 0; round < rounds; ++round)
    for (int first = 0; first < n_; first += kColumns) {
      const int size = std::min(kColumns, n_ - first);
      own_.resize(static_cast<std::size_t>(size) * static_cast<std::size_t>(size));
      h_(first, size, first, size, own_.data());
      std::fill_n(moved_.begin(), static_cast<std::ptrdiff_t>(rows) * size, 0.0f);
      pool_.for_each(rows, [&](int r, int) {
        Row row(type_, own_.data(), size, gradient_.data() + static_cast<std::ptrdiff_t>(r) * n_ + first,
                moved_.data() + static_cast<std::ptrdiff_t>(r) * size);
        row.descend(parts.data() + static_cast<std::ptrdiff_t>(r) * blocks + first / block);
      });
      TRY(spread(rows, first, size));
    }
  return {};
}

Status Descent::run(std::span<const float> w, std::span<const float> b, std::span<std::byte> bytes, int rounds) {
  constexpr std::size_t kRows = 512;  // at once
  const auto n = static_cast<std::size_t>(n_), block = static_cast<std::size_t>(kernels::type_info(type_).block);
  const auto size = static_cast<std::size_t>(kernels::type_info(type_).bytes);
  std::vector<Parts> parts;
  for (std::size_t first = 0; first < w.size() / n; first += kRows) {
    const auto piece = w.subspan(first * n, std::min(kRows * n, w.size() - first * n));
    std::byte* to = bytes.data() + first * n / block * size;
    parts.resize(piece.size() / block);
    for (std::size_t i = 0; i < parts.size(); ++i) kernels::take_apart(type_, to + i * size, parts[i]);
    TRY(run(piece, b.empty() ? b : b.subspan(first * n, piece.size()), parts, rounds));
    for (std::size_t i = 0; i < parts.size(); ++i) kernels::put_together(type_, parts[i], to + i * size);
  }
  return {};
}

}  // namespace ashlar::models
