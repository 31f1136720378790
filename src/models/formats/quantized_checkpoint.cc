#include "models/formats/quantized_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "kernels/blocks.h"
#include "kernels/float8.h"
#include "models/formats/gguf.h"
#include "models/formats/published_matrix.h"

namespace ashlar::models {
namespace {

using kernels::Type;
using Levels = PublishedMatrix::Levels;

constexpr int kChunk = 32;  // columns whose scale and zero are looked at together
constexpr double kMostF16 = 65000;

// FP4's values: a sign above one of these.
constexpr float kFp4[8] = {0.0f, 0.005208333333f, 0.66666667f, 1.0f, 0.33333333f, 0.5f, 0.16666667f, 0.25f};

// What all scales and zeros of a matrix have in common.
struct Survey {
  int chunk = 0;                    // columns of a block that may share a scale: 64 or 32; 0: none
  std::vector<std::int32_t> order;  // that brings groups together, if they do not stand so
  bool exact_halves = true;         // f16 holds every scale
  bool halves = true;               // but for the last of its bits
  double most = 0;                  // scale
  int least_zero = 0, most_zero = 0;
};

bool in_chunks(const PublishedMatrix& m, std::span<const std::int32_t> order, int chunk) {
  if (m.columns % chunk != 0) return false;
  const auto group = [&](std::size_t k) { return m.group_of[order.empty() ? k : static_cast<std::size_t>(order[k])]; };
  for (std::size_t k = 0; k < m.group_of.size(); ++k)
    if (group(k) != group(k - k % static_cast<std::size_t>(chunk))) return false;
  return true;
}

int best_chunk(const PublishedMatrix& m, std::span<const std::int32_t> order) {
  return in_chunks(m, order, 64) ? 64 : in_chunks(m, order, 32) ? 32 : 0;
}

void survey_columns(const PublishedMatrix& m, RowsFor whom, Survey& s) {
  s.chunk = best_chunk(m, {});
  if (s.chunk > 0 || whom == RowsFor::gguf || std::ranges::is_sorted(m.group_of)) return;
  std::vector<std::int32_t> order(static_cast<std::size_t>(m.columns));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::int32_t c) { return std::pair(m.group_of[static_cast<std::size_t>(c)], c); });
  s.chunk = best_chunk(m, order);
  if (s.chunk > 0) s.order = std::move(order);
}

Result<Survey> survey(const PublishedMatrix& m, const safetensors::Checkpoint& weights, RowsFor whom) {
  Survey s{.least_zero = std::numeric_limits<int>::max(), .most_zero = std::numeric_limits<int>::min()};
  survey_columns(m, whom, s);
  std::vector<float> scales(static_cast<std::size_t>(m.groups));
  std::vector<std::int32_t> zeros(scales.size());
  for (std::int64_t row = 0; row < m.rows; ++row) {
    m.scales(row, scales.data(), zeros.data());
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const float scale = scales[g];
      if (!std::isfinite(scale))
        return Error{Code::corrupt,
                     fmt::format("{}: a scale of {} is not a finite number", weights.path(), gguf::quoted(m.name))};
      const float half = kernels::f16_to_f32(kernels::f32_to_f16(scale));
      s.exact_halves = s.exact_halves && half == scale;
      s.halves = s.halves && std::abs(half - scale) <= std::abs(scale) * 0x1p-11f;
      s.most = std::max(s.most, std::abs(double{scale}));
      s.least_zero = std::min(s.least_zero, zeros[g]);
      s.most_zero = std::max(s.most_zero, zeros[g]);
    }
  }
  return s;
}

// The greatest that a level can be.
double reach(const PublishedMatrix& m, const Survey& s) {
  switch (m.levels) {
    case Levels::integers:
      return std::max(s.most_zero, (1 << m.bits) - 1 - s.least_zero);
    case Levels::f8_e4m3:
      return 448;
    case Levels::f8_e5m2:
      return 57344;
    default:
      return 1;
  }
}

// Whole numbers: the types that hold them, the smallest first.
void hold_integers(const PublishedMatrix& m, const Survey& s, RowsFor whom, std::vector<Type>& types) {
  const bool wide = whom == RowsFor::products && s.chunk == 64;
  // code - zero lies within
  const int low = -s.most_zero, high = (1 << m.bits) - 1 - s.least_zero;
  const auto within = [&](int reach) { return low >= -reach && high < reach; };
  if (m.bits <= 4 && s.halves) {
    if (within(8)) types.push_back(Type::q4_0);
    if (wide && s.least_zero >= 0 && s.most_zero <= 16) types.push_back(Type::u4z);
    if (within(16)) types.push_back(Type::q5_0);
  }
  if (within(128) && s.exact_halves) types.push_back(Type::q8_0);
  if (within(128) && wide) types.push_back(Type::i8);
  if (within(128) && s.halves && !s.exact_halves) types.push_back(Type::q8_0);
  if (wide && s.halves && s.least_zero >= 0 && s.most_zero < 256) types.push_back(Type::u8z);
}

// The types that hold the matrix, the best first.
std::vector<Type> holders(const PublishedMatrix& m, const Survey& s, RowsFor whom) {
  std::vector<Type> types;
  if (m.kept != nullptr && whom == RowsFor::gguf) {
    // No block of a GGUF file has them: all become floats.
  } else if (s.chunk > 0 && m.levels == Levels::integers)
    hold_integers(m, s, whom, types);
  else if (s.chunk == 64 && whom == RowsFor::products && m.levels != Levels::fp4)
    types.push_back(m.levels == Levels::f8_e4m3   ? Type::f8_e4m3
                    : m.levels == Levels::f8_e5m2 ? Type::f8_e5m2
                                                  : Type::nf4);
  if (s.most * reach(m, s) < kMostF16) types.push_back(Type::f16);
  types.push_back(Type::bf16);
  return types;
}

// What the experts of one layer have in common: "...mlp.experts.17.up_proj.weight" without the number; of others the
// name itself. They become one tensor, so they must have one type.
std::string kin_of(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t at = name.find(kExperts);
  if (at == name.npos) return std::string(name);
  const std::size_t dot = name.find('.', at + kExperts.size());
  return fmt::format("{}{}", name.substr(0, at + kExperts.size()), dot == name.npos ? "" : name.substr(dot));
}

// A row to write: codes in the order of the product, a scale and a zero for each chunk (or column, if dense).
struct Row {
  const std::uint8_t* codes;
  const float* scales;
  const std::int32_t* zeros;
};

void put16(std::uint8_t*& out, std::uint16_t value) {
  std::memcpy(out, &value, 2);
  out += 2;
}
void put_float(std::uint8_t*& out, float value) {
  std::memcpy(out, &value, 4);
  out += 4;
}

// `count` codes as nibbles: the first half low.
void put_nibbles(std::uint8_t*& out, const std::uint8_t* codes, int plus, int count) {
  for (int i = 0; i < count / 2; ++i)
    *out++ = static_cast<std::uint8_t>((codes[i] + plus) | (codes[i + count / 2] + plus) << 4);
}

void put_q5_0(std::uint8_t*& out, const std::uint8_t* codes, int plus) {
  std::uint32_t high = 0;
  std::uint8_t low[32];
  for (int i = 0; i < 32; ++i) {
    const int code = codes[i] + plus;
    high |= static_cast<std::uint32_t>(code >> 4) << i;
    low[i] = static_cast<std::uint8_t>(code & 15);
  }
  std::memcpy(out, &high, 4);
  out += 4;
  put_nibbles(out, low, 0, 32);
}

// Codes less the zero, as int8.
void put_bytes(std::uint8_t*& out, const std::uint8_t* codes, int zero, int count) {
  for (int i = 0; i < count; ++i) *out++ = static_cast<std::uint8_t>(codes[i] - zero);
}

void put_blocks(Type type, const Row& row, std::int64_t columns, std::uint8_t* out) {
  const int block = kernels::type_info(type).block;
  for (std::int64_t c = 0; c < columns; c += block) {
    const std::uint8_t* codes = row.codes + c;
    const float scale = row.scales[c / kChunk];
    const int zero = row.zeros[c / kChunk];
    const bool wide = type == Type::i8 || type == Type::f8_e4m3 || type == Type::f8_e5m2 || type == Type::nf4;
    wide ? put_float(out, scale) : put16(out, kernels::f32_to_f16(scale));
    switch (type) {
      case Type::q4_0:
        put_nibbles(out, codes, 8 - zero, block);
        break;
      case Type::q5_0:
        put_q5_0(out, codes, 16 - zero);
        break;
      case Type::u4z:
        put16(out, static_cast<std::uint16_t>(zero));
        put_nibbles(out, codes, 0, block);
        break;
      case Type::u8z:
        put16(out, static_cast<std::uint16_t>(zero));
        put_bytes(out, codes, 0, block);
        break;
      case Type::q8_0:
      case Type::i8:
        put_bytes(out, codes, zero, block);
        break;
      case Type::nf4:
        put_nibbles(out, codes, 0, block);
        break;
      default:  // 8-bit floats
        put_bytes(out, codes, 0, block);
        break;
    }
  }
}

double level(const PublishedMatrix& m, std::uint8_t code) {
  switch (m.levels) {
    case Levels::integers:
      return code;
    case Levels::f8_e4m3:
      return kernels::f8_e4m3_to_f32(code);
    case Levels::f8_e5m2:
      return kernels::f8_e5m2_to_f32(code);
    case Levels::nf4:
      return kernels::kNf4[code & 15];
    case Levels::fp4:
      return (code & 8) != 0 ? -kFp4[code & 7] : kFp4[code & 7];
  }
  return 0;
}

class Maker {
 public:
  Maker(PublishedMatrix matrix, Type type, std::vector<std::int32_t> order, std::string place)
      : m_(std::move(matrix)), type_(type), order_(std::move(order)), place_(std::move(place)) {}

  Status operator()(std::span<std::byte> out) const {
    const std::size_t row_bytes = kernels::row_bytes(type_, m_.columns), columns = static_cast<std::size_t>(m_.columns);
    CHECK(out.size() == row_bytes * static_cast<std::size_t>(m_.rows), "room for all rows");
    // Not a power of two: rows would compete for the same few places of the cache.
    const std::size_t stride = columns + 64;
    std::vector<std::uint8_t> band(stride * PublishedMatrix::kBand), ordered(columns);
    std::vector<float> scales(static_cast<std::size_t>(m_.groups)), chunk_scales(columns / kChunk + 1);
    std::vector<std::int32_t> zeros(scales.size()), chunk_zeros(chunk_scales.size());
    for (std::int64_t first = 0; first < m_.rows; first += PublishedMatrix::kBand) {
      const int count = static_cast<int>(std::min<std::int64_t>(PublishedMatrix::kBand, m_.rows - first));
      m_.codes(first, count, band.data(), stride);
      for (int i = 0; i < count; ++i) {
        const std::uint8_t* codes = band.data() + stride * static_cast<std::size_t>(i);
        TRY(check(codes));
        m_.scales(first + i, scales.data(), zeros.data());
        std::byte* to = out.data() + row_bytes * static_cast<std::size_t>(first + i);
        if (type_ == Type::f16 || type_ == Type::bf16) {
          put_dense(codes, scales, zeros, to);
          put_kept(first + i, to);
          continue;
        }
        if (m_.kept != nullptr)
          for (const std::int32_t c : m_.kept->columns)
            band[stride * static_cast<std::size_t>(i) + static_cast<std::size_t>(c)] =
                static_cast<std::uint8_t>(zeros[static_cast<std::size_t>(m_.group_of[static_cast<std::size_t>(c)])]);
        if (!order_.empty()) {
          for (std::size_t c = 0; c < columns; ++c) ordered[c] = codes[order_[c]];
          codes = ordered.data();
        }
        for (std::size_t chunk = 0; chunk < columns / kChunk; ++chunk) {
          const std::size_t column = chunk * kChunk;
          const auto g =
              static_cast<std::size_t>(m_.group_of[order_.empty() ? column : static_cast<std::size_t>(order_[column])]);
          chunk_scales[chunk] = scales[g];
          chunk_zeros[chunk] = zeros[g];
        }
        put_blocks(type_, {codes, chunk_scales.data(), chunk_zeros.data()}, m_.columns,
                   reinterpret_cast<std::uint8_t*>(to));
      }
    }
    return {};
  }

 private:
  Status check(const std::uint8_t* codes) const {
    if (m_.levels != Levels::f8_e4m3 && m_.levels != Levels::f8_e5m2) return {};
    const auto finite = m_.levels == Levels::f8_e4m3 ? kernels::f8_e4m3_is_finite : kernels::f8_e5m2_is_finite;
    if (std::all_of(codes, codes + m_.columns, finite)) return {};
    return Error{Code::corrupt, fmt::format("{}: tensor {} holds what is not a number", place_, gguf::quoted(m_.name))};
  }

  void put_dense(const std::uint8_t* codes, const std::vector<float>& scales, const std::vector<std::int32_t>& zeros,
                 std::byte* to) const {
    for (std::size_t c = 0; c < m_.group_of.size(); ++c) {
      const auto g = static_cast<std::size_t>(m_.group_of[c]);
      const auto value = static_cast<float>(double{scales[g]} * (level(m_, codes[c]) - zeros[g]));
      const std::uint16_t half = type_ == Type::f16 ? kernels::f32_to_f16(value) : kernels::f32_to_bf16(value);
      std::memcpy(to + 2 * c, &half, 2);
    }
  }

  void put_kept(std::int64_t row, std::byte* to) const {
    if (m_.kept == nullptr) return;
    for (std::size_t k = 0; k < m_.kept->columns.size(); ++k) {
      const float value = m_.kept->weights[k * static_cast<std::size_t>(m_.rows) + static_cast<std::size_t>(row)];
      const std::uint16_t half = type_ == Type::f16 ? kernels::f32_to_f16(value) : kernels::f32_to_bf16(value);
      std::memcpy(to + 2 * m_.kept->columns[k], &half, 2);
    }
  }

  PublishedMatrix m_;
  Type type_;
  std::vector<std::int32_t> order_;
  std::string place_;
};

Result<Published> read(const safetensors::Checkpoint& weights, const QuantizationConfig& config) {
  using enum QuantizationConfig::Method;
  switch (config.method) {
    case gptq:
      return read_gptq(weights, config);
    case awq:
      return read_awq(weights, config);
    case bitsandbytes:
      return read_bitsandbytes(weights, config);
    case compressed_tensors:
    case fp8:
      break;
  }
  return read_compressed_tensors(weights, config);
}

}  // namespace

Result<QuantizedCheckpoint> read_quantized_checkpoint(const safetensors::Checkpoint& weights,
                                                      const QuantizationConfig& config, RowsFor whom) {
  Published published = TRY(read(weights, config));
  QuantizedCheckpoint out;
  std::vector<Survey> surveys;
  std::map<std::string, std::vector<Type>> types;  // that hold all of a kin
  for (const PublishedMatrix& matrix : published.matrices) {
    surveys.push_back(TRY(survey(matrix, weights, whom)));
    std::vector<Type> possible = holders(matrix, surveys.back(), whom);
    const auto [kin, fresh] = types.try_emplace(kin_of(matrix.name), possible);
    if (!fresh)
      std::erase_if(kin->second, [&](Type type) { return std::ranges::find(possible, type) == possible.end(); });
  }
  for (std::size_t i = 0; i < published.matrices.size(); ++i) {
    PublishedMatrix& matrix = published.matrices[i];
    QuantizedMatrix q{.name = matrix.name,
                      .type = types.at(kin_of(matrix.name)).front(),
                      .rows = matrix.rows,
                      .columns = matrix.columns,
                      .order = std::move(surveys[i].order),
                      .from = matrix.from};
    if (q.type == Type::f16 || q.type == Type::bf16)
      q.order.clear();
    else
      q.kept = matrix.kept;
    q.make = Maker(std::move(matrix), q.type, q.order, weights.path());
    out.matrices.push_back(std::move(q));
  }
  for (const safetensors::Tensor& tensor : weights.tensors())
    if (!published.taken.contains(tensor.name)) out.plain.push_back(&tensor);
  return out;
}

}  // namespace ashlar::models
