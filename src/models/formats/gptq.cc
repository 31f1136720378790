// GPTQ checkpoints (Frantar et al. 2023, arXiv:2210.17323) as AutoGPTQ and GPTQModel write them. Of each module, with
// `in` columns and `out` rows:
//
//   qweight I32 [in * bits / 32, out]      codes, packed along the columns
//   qzeros  I32 [groups, out * bits / 32]  zeros, packed along the rows; minus one, modulo 2^bits, unless gptq_v2
//   scales  F16 [groups, out]
//   g_idx   I32 [in]                       each column's group; may be missing where columns keep their order
//
// Packed codes are one stream of bits, the least significant of the first word first: codes of 3 bits cross words.
#include <fmt/format.h>

#include <algorithm>

#include "models/formats/published_matrix.h"

namespace ashlar::models {
namespace {

constexpr std::uint32_t mask_of(int bits) { return (1u << bits) - 1; }

// Code `index` of a stream whose words begin at `first`.
std::uint32_t field(const safetensors::Tensor& words, std::size_t first, std::size_t index, int bits) {
  const std::size_t bit = index * static_cast<std::size_t>(bits), word = first + bit / 32;
  const auto shift = static_cast<int>(bit % 32);
  std::uint64_t both = word_at(words, word);
  if (shift + bits > 32) both |= static_cast<std::uint64_t>(word_at(words, word + 1)) << 32;
  return static_cast<std::uint32_t>(both >> shift) & mask_of(bits);
}

struct Parts {
  const safetensors::Tensor *qweight, *qzeros;
  Floats scales;
  std::size_t rows, columns, groups, zero_words;
  int bits;
  bool less_one;

  // Words of a few rows of W are neighbours: each line of memory is read once for all of them.
  void codes(std::int64_t first, int count, std::uint8_t* out, std::size_t stride) const {
    const auto words = static_cast<std::size_t>(bits == 3 ? 3 : 1), codes = words * 32 / static_cast<std::size_t>(bits);
    for (std::size_t i = 0; i * codes < columns; ++i)
      for (int r = 0; r < count; ++r) {
        std::uint64_t low = 0, high = 0;
        const std::size_t at = i * words * rows + static_cast<std::size_t>(first + r);
        low = word_at(*qweight, at);
        if (bits == 3) {
          low |= static_cast<std::uint64_t>(word_at(*qweight, at + rows)) << 32;
          high = word_at(*qweight, at + 2 * rows);
        }
        std::uint8_t* to = out + static_cast<std::size_t>(r) * stride + i * codes;
        for (std::size_t k = 0; k < codes; ++k) {
          to[k] = static_cast<std::uint8_t>(low & mask_of(bits));
          low >>= bits;
          if (bits != 3) continue;
          low |= (high & 7) << 61;
          high >>= 3;
        }
      }
  }

  void read_scales(std::int64_t row, float* out, std::int32_t* zeros) const {
    const auto r = static_cast<std::size_t>(row);
    for (std::size_t g = 0; g < groups; ++g) {
      out[g] = scales[g * rows + r];
      const std::uint32_t stored = field(*qzeros, g * zero_words, r, bits);
      zeros[g] = static_cast<std::int32_t>((stored + (less_one ? 1 : 0)) & mask_of(bits));
    }
  }
};

// Where modules may differ, qzeros' width tells.
Result<int> bits_of(const Module& module, const Parts& p, const QuantizationConfig& config) {
  if (!config.per_module) return config.schemes[0].bits;
  for (const int bits : {2, 3, 4, 8})
    if (p.zero_words * 32 == p.rows * static_cast<std::size_t>(bits)) return bits;
  return module.bad_shape(*p.qzeros, fmt::format("the zeros of {} rows", p.rows));
}

Result<std::vector<std::int32_t>> groups_of(const Module& module, const Parts& p, const QuantizationConfig& config) {
  const auto columns = static_cast<std::int64_t>(p.columns), groups = static_cast<std::int64_t>(p.groups);
  std::int64_t size = config.schemes[0].group;
  if (config.per_module && size > 0 && (columns + size - 1) / size != groups)
    size = columns % groups == 0 ? columns / groups : size;
  const std::int64_t expected = size == 0 ? 1 : (columns + size - 1) / size;
  const safetensors::Tensor* scales = module.find(".scales");
  if (groups != expected && !(config.per_module && groups == 1))
    return module.bad_shape(*scales, fmt::format("{} groups of {} columns", expected, size == 0 ? columns : size));
  if (const safetensors::Tensor* index = module.find(".g_idx")) return groups_from(module, *index, columns, groups);
  if (config.by_activation && groups > 1) return std::unexpected(module.need(".g_idx").error());
  return groups_in_order(columns, groups == 1 ? 0 : size);
}

Result<PublishedMatrix> read_module(const safetensors::Checkpoint& weights, std::string_view name,
                                    const QuantizationConfig& config) {
  const Module module(weights, name);
  Parts p{.qweight = TRY(module.need(".qweight")), .qzeros = TRY(module.need(".qzeros"))};
  const safetensors::Tensor& scales = *TRY(module.need(".scales"));
  p.scales = TRY(Floats::of(module, scales));
  const auto shaped = [](const safetensors::Tensor& t) {
    return t.shape.size() == 2 && t.shape[0] > 0 && t.shape[1] > 0;
  };
  if (!is_words(*p.qweight) || !shaped(*p.qweight)) return module.bad_shape(*p.qweight, "a matrix of I32");
  if (!is_words(*p.qzeros) || !shaped(*p.qzeros)) return module.bad_shape(*p.qzeros, "a matrix of I32");
  if (!shaped(scales) || scales.shape[1] != p.qweight->shape[1])
    return module.bad_shape(scales, fmt::format("[groups, {}]", p.qweight->shape[1]));
  p.rows = static_cast<std::size_t>(p.qweight->shape[1]);
  p.groups = static_cast<std::size_t>(scales.shape[0]);
  p.zero_words = static_cast<std::size_t>(p.qzeros->shape[1]);
  p.bits = TRY(bits_of(module, p, config));
  p.less_one = config.zeros_less_one;
  const auto bits = static_cast<std::size_t>(p.bits), words = static_cast<std::size_t>(p.qweight->shape[0]);
  if (p.zero_words * 32 != p.rows * bits || p.qzeros->shape[0] != scales.shape[0])
    return module.bad_shape(*p.qzeros,
                            fmt::format("[{}, {}] for {} rows of {} bits", p.groups, p.rows * bits / 32, p.rows, bits));
  if (words % (bits == 3 ? 3 : 1) != 0 || words > kMostColumns / 32)
    return module.bad_shape(*p.qweight, "words of whole codes");
  p.columns = words * 32 / bits;
  PublishedMatrix m{.name = fmt::format("{}.weight", name),
                    .rows = static_cast<std::int64_t>(p.rows),
                    .columns = static_cast<std::int64_t>(p.columns),
                    .bits = p.bits,
                    .groups = static_cast<int>(p.groups),
                    .group_of = TRY(groups_of(module, p, config)),
                    .from = {p.qweight, p.qzeros, &scales}};
  if (const safetensors::Tensor* index = module.find(".g_idx")) m.from.push_back(index);
  m.codes = [p](std::int64_t first, int count, std::uint8_t* out, std::size_t stride) {
    p.codes(first, count, out, stride);
  };
  m.scales = [p](std::int64_t row, float* out, std::int32_t* zeros) { p.read_scales(row, out, zeros); };
  return m;
}

}  // namespace

Result<Published> read_gptq(const safetensors::Checkpoint& weights, const QuantizationConfig& config) {
  Published out;
  for (const std::string_view name : modules_with(weights, ".qweight"))
    out.add(TRY(read_module(weights, name, config)));
  return out;
}

}  // namespace ashlar::models
