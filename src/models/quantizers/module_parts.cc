// The tensors of a quantized module, as the readers in formats/ describe them: gptq.cc, awq.cc, compressed_tensors.cc,
// bitsandbytes.cc draw the layouts.
#include <fmt/format.h>

#include <cstring>

#include "kernels/blocks.h"
#include "models/quantizers/folder_form.h"

namespace ashlar::models {
namespace {

using Levels = CodeForm::Levels;
using Scales = CodeForm::Scales;
using safetensors::Type;

constexpr int kAwqRow[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // of a word's rows, the least significant bits first

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> out(values.size() * sizeof(T));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

// Codes of `bits` bits, the least significant first, into words that lie `stride` apart.
void put_bits(std::uint32_t* words, std::size_t stride, std::size_t index, int bits, std::uint32_t code) {
  const std::size_t bit = index * size(bits), shift = bit % 32;
  words[bit / 32 * stride] |= code << shift;
  if (shift + size(bits) > 32) words[(bit / 32 + 1) * stride] |= code >> (32 - shift);
}

// [groups, rows] of what stands [rows, groups].
std::vector<std::byte> halves_turned(const CodedMatrix& m) {
  std::vector<std::uint16_t> out(m.scales.size());
  for (std::size_t r = 0; r < size(m.rows); ++r)
    for (std::size_t g = 0; g < size(m.groups); ++g)
      out[g * size(m.rows) + r] = kernels::f32_to_f16(m.scales[r * size(m.groups) + g]);
  return bytes_of(out);
}

std::vector<std::byte> gptq_weight(const CodedMatrix& m, ThreadPool& pool) {
  const int bits = m.form.bits;
  const std::size_t rows = size(m.rows), columns = size(m.columns), codes = 32;  // `bits` words of them
  std::vector<std::uint32_t> words(columns * size(bits) / 32 * rows);
  pool.for_each(static_cast<int>(divide_up(m.columns, 32)), [&](int piece, int) {
    const std::size_t first = size(piece) * codes, count = std::min(codes, columns - first);
    std::uint32_t* to = words.data() + size(piece) * size(bits) * rows;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t k = 0; k < count; ++k) put_bits(to + r, rows, k, bits, m.codes[r * columns + first + k]);
  });
  return bytes_of(words);
}

std::vector<std::byte> gptq_zeros(const CodedMatrix& m) {
  const int bits = m.form.bits;
  const std::size_t across = size(m.rows) * size(bits) / 32;
  std::vector<std::uint32_t> words(across * size(m.groups));
  for (std::size_t g = 0; g < size(m.groups); ++g)
    for (std::size_t r = 0; r < size(m.rows); ++r) {
      const std::uint32_t zero = m.zeros[r * size(m.groups) + g];
      put_bits(words.data() + g * across, 1, r, bits, (zero - 1) & ((1u << bits) - 1));
    }
  return bytes_of(words);
}

std::vector<std::byte> group_index(const CodedMatrix& m) {
  std::vector<std::int32_t> out(size(m.columns));
  for (int c = 0; c < m.columns; ++c) out[size(c)] = c / m.form.group_columns(m.columns);
  return bytes_of(out);
}

// Of eight rows each a word: at(row).
std::uint32_t awq_word(std::size_t first, auto at) {
  std::uint32_t word = 0;
  for (int i = 0; i < 8; ++i) word |= std::uint32_t{at(first + size(kAwqRow[i]))} << 4 * i;
  return word;
}

std::vector<std::byte> awq_weight(const CodedMatrix& m, ThreadPool& pool) {
  const std::size_t columns = size(m.columns), across = size(m.rows) / 8;
  std::vector<std::uint32_t> words(columns * across);
  pool.for_each(static_cast<int>(across), [&](int w, int) {
    for (std::size_t c = 0; c < columns; ++c)
      words[c * across + size(w)] = awq_word(8 * size(w), [&](std::size_t r) { return m.codes[r * columns + c]; });
  });
  return bytes_of(words);
}

std::vector<std::byte> awq_zeros(const CodedMatrix& m) {
  const std::size_t across = size(m.rows) / 8, groups = size(m.groups);
  std::vector<std::uint32_t> words(groups * across);
  for (std::size_t g = 0; g < groups; ++g)
    for (std::size_t w = 0; w < across; ++w)
      words[g * across + w] = awq_word(8 * w, [&](std::size_t r) { return m.zeros[r * groups + g]; });
  return bytes_of(words);
}

std::vector<std::byte> packed_weight(const CodedMatrix& m, ThreadPool& pool) {
  const std::size_t per = size(32 / m.form.bits), across = (size(m.columns) + per - 1) / per;
  std::vector<std::uint32_t> words(size(m.rows) * across);
  pool.for_each(m.rows, [&](int r, int) {
    const std::uint8_t* codes = m.codes.data() + size(r) * size(m.columns);
    for (std::size_t c = 0; c < size(m.columns); ++c)
      words[size(r) * across + c / per] |= std::uint32_t{codes[c]} << c % per * size(m.form.bits);
  });
  return bytes_of(words);
}

std::vector<std::byte> packed_zeros(const CodedMatrix& m) {
  const std::size_t per = size(32 / m.form.bits), groups = size(m.groups);
  std::vector<std::uint32_t> words((size(m.rows) + per - 1) / per * groups);
  for (std::size_t r = 0; r < size(m.rows); ++r)
    for (std::size_t g = 0; g < groups; ++g)
      words[r / per * groups + g] |= std::uint32_t{m.zeros[r * groups + g]} << r % per * size(m.form.bits);
  return bytes_of(words);
}

std::vector<std::byte> halves(const CodedMatrix& m) {
  std::vector<std::uint16_t> out;
  for (const float scale : m.scales) out.push_back(kernels::f32_to_f16(scale));
  return bytes_of(out);
}

// Integers as int8, floats as their bits.
std::vector<std::byte> plain_weight(const CodedMatrix& m) {
  std::vector<std::byte> out(m.codes.size());
  const std::uint8_t flip = m.form.levels == Levels::integers ? 128 : 0;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(m.codes[i] ^ flip);
  return out;
}

std::vector<std::byte> plain_scales(const CodedMatrix& m) {
  if (m.form.scales == Scales::whole) return bytes_of(std::vector<float>{m.scales.front()});
  std::vector<float> out = m.scales;
  if (m.form.greatest_127)
    for (float& scale : out) scale *= 127;  // SCB: the greatest itself
  return bytes_of(out);
}

Type plain_type(Levels levels) {
  return levels == Levels::integers ? Type::i8 : levels == Levels::f8_e4m3 ? Type::f8_e4m3 : Type::f8_e5m2;
}

bool is_plain(const FolderForm& form) {
  return form.activations || form.format == FolderFormat::fp8 || form.format == FolderFormat::bitsandbytes;
}

}  // namespace

std::string misfit(const FolderForm& form, std::int64_t rows, std::int64_t columns) {
  const CodeForm& code = form.code;
  const auto whole = [](std::int64_t n, std::int64_t of, std::string_view what) {
    return n % of == 0 ? std::string() : fmt::format("{} {} are not whole words of {}", n, what, of);
  };
  if (code.scales == Scales::groups && columns % code.group != 0)
    return fmt::format("{} columns are not whole groups of {}", columns, code.group);
  if (form.format == FolderFormat::awq) return whole(rows, 8, "rows");
  if (form.format != FolderFormat::gptq) return {};
  const std::string wide = whole(columns, 32, "columns");
  return wide.empty() ? whole(rows, 32, "rows") : wide;
}

std::vector<ModulePart> module_parts(const FolderForm& form, std::int64_t rows, std::int64_t columns) {
  const CodeForm& code = form.code;
  const std::int64_t groups = divide_up(columns, code.group_columns(static_cast<int>(columns)));
  if (form.format == FolderFormat::gptq)
    return {{".qweight", Type::i32, {columns * code.bits / 32, rows}, {}},
            {".qzeros", Type::i32, {groups, rows * code.bits / 32}, {}},
            {".scales", Type::f16, {groups, rows}, {}},
            {".g_idx", Type::i32, {columns}, {}}};
  if (form.format == FolderFormat::awq)
    return {{".qweight", Type::i32, {columns, rows / 8}, {}},
            {".qzeros", Type::i32, {groups, rows / 8}, {}},
            {".scales", Type::f16, {groups, rows}, {}}};
  if (form.format == FolderFormat::bitsandbytes)
    return {{".weight", Type::i8, {rows, columns}, {}},
            {".SCB", Type::f32, {rows}, {}},
            {".weight_format", Type::u8, {}, {}}};
  if (is_plain(form)) {
    const bool whole = code.scales == Scales::whole;
    return {
        {".weight", plain_type(code.levels), {rows, columns}, {}},
        {".weight_scale", Type::f32, whole ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{rows, 1}, {}}};
  }
  const std::int64_t per = 32 / code.bits;
  std::vector<ModulePart> out{{".weight_packed", Type::i32, {rows, divide_up(columns, per)}, {}},
                              {".weight_scale", Type::f16, {rows, groups}, {}},
                              {".weight_shape", Type::i64, {2}, {}}};
  if (!code.symmetric) out.push_back({".weight_zero_point", Type::i32, {divide_up(rows, per), groups}, {}});
  return out;
}

std::vector<ModulePart> pack_module(const FolderForm& form, const CodedMatrix& m, ThreadPool& pool) {
  std::vector<ModulePart> out = module_parts(form, m.rows, m.columns);
  for (ModulePart& part : out) {
    const std::string& suffix = part.suffix;
    if (suffix == ".qweight")
      part.bytes = form.format == FolderFormat::awq ? awq_weight(m, pool) : gptq_weight(m, pool);
    else if (suffix == ".qzeros")
      part.bytes = form.format == FolderFormat::awq ? awq_zeros(m) : gptq_zeros(m);
    else if (suffix == ".scales")
      part.bytes = halves_turned(m);
    else if (suffix == ".g_idx")
      part.bytes = group_index(m);
    else if (suffix == ".weight_packed")
      part.bytes = packed_weight(m, pool);
    else if (suffix == ".weight_zero_point")
      part.bytes = packed_zeros(m);
    else if (suffix == ".weight_shape")
      part.bytes = bytes_of(std::vector<std::int64_t>{m.rows, m.columns});
    else if (suffix == ".weight")
      part.bytes = plain_weight(m);
    else if (suffix == ".weight_format")
      part.bytes = {std::byte{0}};
    else
      part.bytes = is_plain(form) ? plain_scales(m) : halves(m);
  }
  return out;
}

}  // namespace ashlar::models
