// compressed-tensors checkpoints (github.com/vllm-project/compressed-tensors), and those with 8-bit floats and scales
// beside them. Of each module, with `in` columns and `out` rows:
//
//   weight_packed     I32 [out, ceil(in / p)]     codes of b bits, p = 32 / b in a word; codes are values + 2^(b-1)
//   weight_shape      I64 [2]                     out, in
//   weight_zero_point I32 [ceil(out / p), groups] packed likewise along the rows; or plain I8
//   weight_g_idx      I32 [in]                    each column's group, where columns were quantized in another order
// or
//   weight            I8 or F8_E4M3 [out, in]
// and
//   weight_scale      [1], [out, 1], [out, groups], or one for each tile of rows and columns: [out / 128, in / 128]
//
// DeepSeek's checkpoints call the tiles' scales weight_scale_inv; they multiply all the same. Scales of activations
// are left out: ours are found as they come.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "models/formats/published_matrix.h"

namespace ashlar::models {
namespace {

using Scheme = QuantizationConfig::Scheme;

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

// Where a row's scales stand: row r / rows_each of [.., groups].
struct Grid {
  std::int64_t rows_each = 1, groups = 1;
  std::int64_t group = 0;  // columns of one; 0: all
};

// What the shape of the scales means.
std::optional<Grid> grid_of(const safetensors::Tensor& scales, std::int64_t rows, std::int64_t columns,
                            std::span<const Scheme> schemes) {
  const auto& s = scales.shape;
  if (scales.elements() == 1) return Grid{.rows_each = rows};
  const std::int64_t across = s.size() == 2 ? s[1] : s.size() == 1 ? 1 : 0;
  if (across < 1) return std::nullopt;
  for (const Scheme& scheme : schemes)
    if (scheme.block > 0 && s[0] == divide_up(rows, scheme.block_rows) && across == divide_up(columns, scheme.block))
      return Grid{scheme.block_rows, across, scheme.block};
  if (s[0] != rows) return std::nullopt;
  if (across == 1) return Grid{};
  for (const Scheme& scheme : schemes)
    if (scheme.group > 0 && across == divide_up(columns, scheme.group)) return Grid{1, across, scheme.group};
  return std::nullopt;
}

struct Parts {
  const safetensors::Tensor* codes;
  const safetensors::Tensor* zeros = nullptr;
  Floats scales;
  std::size_t columns = 0, words = 0, groups = 1, rows_each = 1, zero_columns = 1;
  int bits = 8;
  bool packed = false, zeros_packed = false, floats = false;

  void read_codes(std::int64_t first, int count, std::uint8_t* out, std::size_t stride) const {
    const auto flip = static_cast<std::uint8_t>(codes->type == safetensors::Type::i8 ? 128 : 0);
    const auto per = static_cast<std::size_t>(32 / bits);
    for (int r = 0; r < count; ++r, out += stride) {
      const auto row = static_cast<std::size_t>(first + r);
      if (!packed) {
        std::memcpy(out, codes->data.data() + row * columns, columns);
        if (flip != 0) std::for_each(out, out + columns, [&](std::uint8_t& code) { code ^= flip; });
        continue;
      }
      for (std::size_t c = 0, w = 0; c < columns; ++w) {
        std::uint32_t word = word_at(*codes, row * words + w);
        for (std::size_t k = 0; k < per && c < columns; ++k, ++c, word >>= bits)
          out[c] = static_cast<std::uint8_t>(word & ((1u << bits) - 1));
      }
    }
  }

  std::int32_t zero_at(std::size_t row, std::size_t group) const {
    const std::size_t g = zero_columns == 1 ? 0 : group;
    if (zeros_packed) {
      const auto per = static_cast<std::size_t>(32 / bits);
      const std::uint32_t word =
          word_at(*zeros, row / per * zero_columns + g) >> (row % per * static_cast<std::size_t>(bits));
      return static_cast<std::int32_t>(word & ((1u << bits) - 1));
    }
    const std::size_t at = zeros->data.size() == 1 ? 0 : row * zero_columns + g;
    return static_cast<std::int8_t>(zeros->data[at]) + (1 << (bits - 1));
  }

  void read_scales(std::int64_t row, float* out, std::int32_t* to) const {
    const auto r = static_cast<std::size_t>(row);
    for (std::size_t g = 0; g < groups; ++g) {
      out[g] = scales[r / rows_each * groups + g];
      to[g] = floats ? 0 : zeros == nullptr ? 1 << (bits - 1) : zero_at(r, g);
    }
  }
};

Status take_zeros(const Module& module, const PublishedMatrix& m, Parts& p) {
  p.zeros = module.find(".weight_zero_point");
  if (p.zeros == nullptr) return {};
  const safetensors::Tensor& t = *p.zeros;
  const std::int64_t groups = m.groups, packed_rows = divide_up(m.rows, 32 / p.bits);
  p.zeros_packed = is_words(t);
  const bool one = t.elements() == 1 || has_shape(t, {m.rows}) || has_shape(t, {m.rows, 1});
  p.zero_columns = t.shape.size() == 2 ? static_cast<std::size_t>(t.shape[1]) : 1;
  const bool fits = p.zeros_packed ? has_shape(t, {packed_rows, groups})
                                   : t.type == safetensors::Type::i8 && (one || has_shape(t, {m.rows, groups}));
  if (!fits)
    return module.bad_shape(t, fmt::format("I8 [{}, {}], or I32 [{}, {}]", m.rows, groups, packed_rows, groups));
  return {};
}

// The scales' place, and whose columns are whose.
Status take_scales(const Module& module, const safetensors::Tensor& scales, const QuantizationConfig& config,
                   PublishedMatrix& m, Parts& p) {
  p.scales = TRY(Floats::of(module, scales));
  const auto grid = grid_of(scales, m.rows, m.columns, config.schemes);
  if (!grid) {
    std::string groups;
    for (const Scheme& scheme : config.schemes) {
      if (scheme.group > 0) groups += fmt::format(", groups of {}", scheme.group);
      if (scheme.block > 0) groups += fmt::format(", tiles of {} x {}", scheme.block_rows, scheme.block);
    }
    return module.bad_shape(
        scales, fmt::format("one for each part of [{}, {}] (the whole, rows{})", m.rows, m.columns, groups));
  }
  m.groups = static_cast<int>(grid->groups);
  p.groups = static_cast<std::size_t>(grid->groups);
  p.rows_each = static_cast<std::size_t>(grid->rows_each);
  m.group_of = groups_in_order(m.columns, grid->group);
  m.from.push_back(&scales);
  return {};
}

void finish(PublishedMatrix& m, const Parts& p) {
  if (p.zeros != nullptr) m.from.push_back(p.zeros);
  m.codes = [p](std::int64_t first, int count, std::uint8_t* out, std::size_t stride) {
    p.read_codes(first, count, out, stride);
  };
  m.scales = [p](std::int64_t row, float* out, std::int32_t* zeros) { p.read_scales(row, out, zeros); };
}

Result<PublishedMatrix> read_packed(const safetensors::Checkpoint& weights, std::string_view name,
                                    const QuantizationConfig& config) {
  const Module module(weights, name);
  Parts p{.codes = TRY(module.need(".weight_packed")), .packed = true};
  const safetensors::Tensor& shape = *TRY(module.need(".weight_shape"));
  const bool wide = shape.type == safetensors::Type::i64;
  if ((!wide && !is_words(shape)) || !has_shape(shape, {2})) return module.bad_shape(shape, "I64 [2]");
  std::int64_t sizes[2] = {};
  for (std::size_t i = 0; i < 2; ++i)
    if (wide)
      std::memcpy(&sizes[i], shape.data.data() + 8 * i, 8);
    else
      sizes[i] = static_cast<std::int32_t>(word_at(shape, i));
  PublishedMatrix m{
      .name = fmt::format("{}.weight", name), .rows = sizes[0], .columns = sizes[1], .from = {p.codes, &shape}};
  if (m.rows < 1 || m.columns < 1 || m.columns > kMostColumns)
    return module.bad(shape, fmt::format("says {} x {}", m.rows, m.columns));
  const auto scheme = std::ranges::find_if(config.schemes, [&](const Scheme& each) {
    return has_shape(*p.codes, {m.rows, divide_up(m.columns, 32 / each.bits)});
  });
  if (!is_words(*p.codes) || scheme == config.schemes.end())
    return module.bad_shape(*p.codes, fmt::format("I32, the packed codes of [{}, {}]", m.rows, m.columns));
  m.bits = p.bits = scheme->bits;
  p.columns = static_cast<std::size_t>(m.columns);
  p.words = static_cast<std::size_t>(p.codes->shape[1]);
  const safetensors::Tensor& scales = *TRY(module.need(".weight_scale"));
  TRY(take_scales(module, scales, config, m, p));
  if (const safetensors::Tensor* index = module.find(".weight_g_idx")) {
    // All minus one: the columns keep their order.
    const bool none = is_words(*index) && has_shape(*index, {m.columns}) &&
                      std::ranges::all_of(index->data, [](std::byte b) { return b == std::byte{0xff}; });
    if (!none) m.group_of = TRY(groups_from(module, *index, m.columns, m.groups));
    m.from.push_back(index);
  }
  TRY(take_zeros(module, m, p));
  finish(m, p);
  return m;
}

// int8 or 8-bit floats as they are.
Result<PublishedMatrix> read_plain(const Module& module, const safetensors::Tensor& codes,
                                   const safetensors::Tensor& scales, const QuantizationConfig& config) {
  if (codes.shape.size() != 2 || codes.shape[0] < 1 || codes.shape[1] < 1 || codes.shape[1] > kMostColumns)
    return module.bad_shape(codes, "a matrix");
  using Levels = PublishedMatrix::Levels;
  PublishedMatrix m{.name = codes.name,
                    .rows = codes.shape[0],
                    .columns = codes.shape[1],
                    .levels = codes.type == safetensors::Type::i8        ? Levels::integers
                              : codes.type == safetensors::Type::f8_e4m3 ? Levels::f8_e4m3
                                                                         : Levels::f8_e5m2,
                    .bits = 8,
                    .from = {&codes}};
  Parts p{.codes = &codes, .columns = static_cast<std::size_t>(m.columns), .floats = m.levels != Levels::integers};
  TRY(take_scales(module, scales, config, m, p));
  if (!p.floats) TRY(take_zeros(module, m, p));
  finish(m, p);
  return m;
}

bool is_eight_bits(const safetensors::Tensor& tensor) {
  using enum safetensors::Type;
  return tensor.type == i8 || tensor.type == f8_e4m3 || tensor.type == f8_e5m2;
}

}  // namespace

Result<Published> read_compressed_tensors(const safetensors::Checkpoint& weights, const QuantizationConfig& config) {
  Published out;
  for (const std::string_view name : modules_with(weights, ".weight_packed"))
    out.add(TRY(read_packed(weights, name, config)));
  for (const std::string_view name : modules_with(weights, ".weight")) {
    const Module module(weights, name);
    const safetensors::Tensor& codes = *module.find(".weight");
    if (!is_eight_bits(codes)) continue;
    const safetensors::Tensor* scales = module.find(".weight_scale_inv");
    if (scales == nullptr) scales = TRY(module.need(".weight_scale"));
    out.add(TRY(read_plain(module, codes, *scales, config)));
  }
  // Of activations, and of keys and values.
  for (const safetensors::Tensor& tensor : weights.tensors())
    for (const std::string_view suffix : {".input_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale",
                                          ".q_scale", ".input_scale_ub", ".activation_scale"})
      if (std::string_view(tensor.name).ends_with(suffix)) out.taken.insert(tensor.name);
  return out;
}

}  // namespace ashlar::models
