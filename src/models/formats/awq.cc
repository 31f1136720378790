// AWQ checkpoints (Lin et al. 2023, arXiv:2306.00978) as AutoAWQ's "gemm" version writes them. Of each module, with
// `in` columns and `out` rows:
//
//   qweight I32 [in, out / 8]      codes of 4 bits, packed along the rows
//   qzeros  I32 [groups, out / 8]  zeros, packed likewise
//   scales  F16 [groups, out]
//
// A word holds rows 8w + 0, 2, 4, 6, 1, 3, 5, 7, the least significant bits first.
#include <fmt/format.h>

#include "models/formats/published_matrix.h"

namespace ashlar::models {
namespace {

constexpr int kShift[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // of row 8w + i

struct Parts {
  const safetensors::Tensor *qweight, *qzeros;
  Floats scales;
  std::size_t rows, columns, groups;

  void codes(std::int64_t first, int count, std::uint8_t* out, std::size_t stride) const {
    const std::size_t words = rows / 8, begin = static_cast<std::size_t>(first) / 8;
    for (std::size_t c = 0; c < columns; ++c)
      for (int r = 0; r < count; r += 8) {
        const std::uint32_t word = word_at(*qweight, c * words + begin + static_cast<std::size_t>(r / 8));
        for (int i = 0; i < 8; ++i)
          out[static_cast<std::size_t>(r + i) * stride + c] = static_cast<std::uint8_t>(word >> kShift[i] & 15);
      }
  }

  void read_scales(std::int64_t row, float* out, std::int32_t* zeros) const {
    const auto r = static_cast<std::size_t>(row);
    for (std::size_t g = 0; g < groups; ++g) {
      out[g] = scales[g * rows + r];
      zeros[g] = qzeros == nullptr
                     ? 8
                     : static_cast<std::int32_t>(word_at(*qzeros, g * (rows / 8) + r / 8) >> kShift[r % 8] & 15);
    }
  }
};

Result<PublishedMatrix> read_module(const safetensors::Checkpoint& weights, std::string_view name,
                                    const QuantizationConfig& config) {
  const Module module(weights, name);
  Parts p{.qweight = TRY(module.need(".qweight")),
          .qzeros = config.zeros ? TRY(module.need(".qzeros")) : module.find(".qzeros")};
  const safetensors::Tensor& scales = *TRY(module.need(".scales"));
  p.scales = TRY(Floats::of(module, scales));
  const auto& shape = p.qweight->shape;
  const bool sized = shape.size() == 2 && shape[0] > 0 && shape[1] > 0 && shape[0] <= kMostColumns;
  if (!is_words(*p.qweight) || !sized) return module.bad_shape(*p.qweight, "a matrix of I32");
  const std::int64_t rows = 8 * shape[1], columns = shape[0], size = config.schemes[0].group;
  const std::int64_t groups = size == 0 ? 1 : (columns + size - 1) / size;
  if (!has_shape(scales, {groups, rows}))
    return module.bad_shape(scales,
                            fmt::format("[{}, {}] for {} columns in groups of {}", groups, rows, columns, size));
  if (p.qzeros != nullptr && (!is_words(*p.qzeros) || !has_shape(*p.qzeros, {groups, shape[1]})))
    return module.bad_shape(*p.qzeros, fmt::format("I32 [{}, {}]", groups, shape[1]));
  p.rows = static_cast<std::size_t>(rows);
  p.columns = static_cast<std::size_t>(columns);
  p.groups = static_cast<std::size_t>(groups);
  PublishedMatrix m{.name = fmt::format("{}.weight", name),
                    .rows = rows,
                    .columns = columns,
                    .bits = 4,
                    .groups = static_cast<int>(groups),
                    .group_of = groups_in_order(columns, size),
                    .from = {p.qweight, &scales}};
  if (p.qzeros != nullptr) m.from.push_back(p.qzeros);
  m.codes = [p](std::int64_t first, int count, std::uint8_t* out, std::size_t stride) {
    p.codes(first, count, out, stride);
  };
  m.scales = [p](std::int64_t row, float* out, std::int32_t* zeros) { p.read_scales(row, out, zeros); };
  return m;
}

}  // namespace

Result<Published> read_awq(const safetensors::Checkpoint& weights, const QuantizationConfig& config) {
  Published out;
  for (const std::string_view name : modules_with(weights, ".qweight"))
    out.add(TRY(read_module(weights, name, config)));
  return out;
}

}  // namespace ashlar::models
