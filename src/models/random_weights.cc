#include "models/random_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/result.h"
#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

using kernels::Type;

// SplitMix64 (Steele, Lea, Flood 2014).
struct Random {
  std::uint64_t state;
  std::uint64_t operator()() {
    std::uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
};

void fill_bytes(std::span<std::byte> out, Random& random) {
  std::size_t at = 0;
  for (; at + 8 <= out.size(); at += 8) {
    const std::uint64_t bits = random();
    std::memcpy(out.data() + at, &bits, 8);
  }
  const std::uint64_t bits = random();
  std::memcpy(out.data() + at, &bits, out.size() - at);
}

// Where the f16 scale stands in a block of a quantized type, and its size.
struct Recipe {
  int scale_at = 0, min_at = -1;  // byte offsets in a block; -1: none
  double scale = 0;               // of one code step, before the deviation
  double min = 0;                 // in scales, so that the mean is 0
};

// Root mean square of a uniformly drawn code about its mean.
double spread(int codes) { return std::sqrt((codes * codes - 1) / 12.0); }

// The scales of K-quants are drawn too; these are their root mean squares.
constexpr double kSixBitSigned = 18.5, kEightBitSigned = 73.9, kUpperSixBit = 48.3, kUpperFourBit = 11.7;
constexpr double kIq4Spread = 70.0;  // of the IQ4 table

Recipe recipe(Type type) {
  Recipe r;
  switch (type) {
    case Type::q8_0:
      r.scale = 1 / spread(256);
      break;
    case Type::q4_0:
      r.scale = 1 / spread(16);
      break;
    case Type::q5_0:
      r.scale = 1 / spread(32);
      break;
    case Type::iq4_nl:
      r.scale = 1 / kIq4Spread;
      break;
    case Type::iq4_xs:
      r.scale = 1 / (kIq4Spread * kSixBitSigned);
      break;
    case Type::q4_1:
      r.scale = 1 / spread(16), r.min_at = 2, r.min = -7.5;
      break;
    case Type::q5_1:
      r.scale = 1 / spread(32), r.min_at = 2, r.min = -15.5;
      break;
    case Type::q2_k:
      r.scale = 1 / (spread(4) * kUpperFourBit), r.scale_at = 80, r.min_at = 82, r.min = 1.5;
      break;
    case Type::q3_k:
      r.scale = 1 / (spread(8) * kSixBitSigned), r.scale_at = 108;
      break;
    case Type::q4_k:
      r.scale = 1 / (spread(16) * kUpperSixBit), r.min_at = 2, r.min = 7.5;
      break;
    case Type::q5_k:
      r.scale = 1 / (spread(32) * kUpperSixBit), r.min_at = 2, r.min = 15.5;
      break;
    case Type::q6_k:
      r.scale = 1 / (spread(64) * kEightBitSigned), r.scale_at = 208;
      break;
    case Type::f32:
    case Type::f16:
    case Type::bf16:
    case Type::mxfp4:  // its scale is a power of two
    case Type::u4z:    // no file has these
    case Type::u8z:
    case Type::i8:
    case Type::f8_e4m3:
    case Type::f8_e5m2:
    case Type::nf4:
      break;
  }
  return r;
}

// 4096 values at equal steps of the standard normal distribution.
constexpr int kQuantileBits = 12;
constexpr std::size_t kQuantiles = 1 << kQuantileBits;
using Quantiles = std::array<float, kQuantiles>;

const Quantiles& normal_quantiles() {
  static const Quantiles quantiles = [] {
    Quantiles q;
    for (std::size_t i = 0; i < kQuantiles; ++i) {
      const double wanted = (static_cast<double>(i) + 0.5) / kQuantiles;
      double low = -5, high = 5;
      while (high - low > 1e-7) {
        const double middle = (low + high) / 2;
        (0.5 * std::erfc(-middle * std::sqrt(0.5)) < wanted ? low : high) = middle;
      }
      q[i] = static_cast<float>(low);
    }
    return q;
  }();
  return quantiles;
}

// Draws T's from a table.
template <class T>
void fill_from(const std::array<T, kQuantiles>& table, std::span<std::byte> out, Random& random) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < out.size() / sizeof(T); ++i) {
    if (i % 5 == 0) bits = random();
    std::memcpy(out.data() + i * sizeof(T), &table[bits % kQuantiles], sizeof(T));
    bits >>= kQuantileBits;
  }
}

template <class T>
std::array<T, kQuantiles> convert(double deviation, T (*to)(float)) {
  std::array<T, kQuantiles> table;
  for (std::size_t i = 0; i < kQuantiles; ++i) table[i] = to(static_cast<float>(normal_quantiles()[i] * deviation));
  return table;
}

// The twelve bytes of Q4_K and Q5_K that hold eight six-bit scales and mins,
// both drawn from the upper half, min equal to scale.
void place_six_bit_scales(std::byte* out, std::uint64_t random) {
  std::uint8_t s[8], bytes[12];
  for (int i = 0; i < 8; ++i) s[i] = static_cast<std::uint8_t>(32 + (random >> (5 * i)) % 32);
  for (int i = 0; i < 4; ++i) {
    bytes[i] = static_cast<std::uint8_t>(s[i] | (s[i + 4] >> 4) << 6);
    bytes[i + 4] = bytes[i];
    bytes[i + 8] = static_cast<std::uint8_t>((s[i + 4] & 15) * 0x11);
  }
  std::memcpy(out, bytes, sizeof bytes);
}

// The scale is the power of two that comes nearest.
void fill_mxfp4(double deviation, std::span<std::byte> out, Random& random) {
  constexpr double kSpread = 2.8;  // of the values of FP4
  constexpr std::size_t kBlockBytes = 17;
  const double exponent = 127 + std::round(std::log2(std::max(deviation, 1e-30) / kSpread));
  fill_bytes(out, random);
  for (std::size_t at = 0; at < out.size(); at += kBlockBytes)
    out[at] = static_cast<std::byte>(std::clamp(exponent, 0.0, 254.0));
}

void fill_blocks(Type type, double deviation, std::span<std::byte> out, Random& random) {
  if (type == Type::mxfp4) return fill_mxfp4(deviation, out, random);
  const Recipe r = recipe(type);
  const auto size = static_cast<std::size_t>(kernels::type_info(type).bytes);
  // The sign is drawn for each block, so that types with uneven codes have mean 0 too.
  const float step = static_cast<float>(r.scale * deviation);
  const std::uint16_t scales[] = {kernels::f32_to_f16(step), kernels::f32_to_f16(-step)};
  const float min = static_cast<float>(r.min) * step;
  const std::uint16_t mins[] = {kernels::f32_to_f16(min), kernels::f32_to_f16(-min)};
  fill_bytes(out, random);
  for (std::byte* block = out.data(); block < out.data() + out.size(); block += size) {
    const std::uint64_t bits = random();
    std::memcpy(block + r.scale_at, &scales[bits >> 63], 2);
    if (r.min_at >= 0) std::memcpy(block + r.min_at, &mins[bits >> 63], 2);
    if (type == Type::q4_k || type == Type::q5_k) place_six_bit_scales(block + 4, bits);
    if (type == Type::q2_k)
      for (int i = 0; i < 16; ++i) block[i] = static_cast<std::byte>((8 + static_cast<int>(block[i]) % 8) * 0x11);
  }
}

}  // namespace

void fill_random(Type type, double deviation, std::uint64_t seed, std::span<std::byte> out, ThreadPool& pool) {
  const auto block = static_cast<std::size_t>(kernels::type_info(type).bytes);
  CHECK(out.size() % block == 0, "whole blocks are filled");
  const auto f32 = convert<float>(deviation, [](float x) { return x; });
  const auto f16 = convert<std::uint16_t>(deviation, kernels::f32_to_f16);
  const auto bf16 = convert<std::uint16_t>(deviation, kernels::f32_to_bf16);
  const std::size_t piece = block * std::max<std::size_t>(1, (64 << 10) / block);
  const std::size_t pieces = (out.size() + piece - 1) / piece;
  pool.for_each(static_cast<int>(pieces), [&](int index, int) {
    const std::size_t begin = static_cast<std::size_t>(index) * piece;
    const auto part = out.subspan(begin, std::min(piece, out.size() - begin));
    Random random{seed * 0xD1342543DE82EF95 + static_cast<std::uint64_t>(index)};
    random();
    if (type == Type::f32)
      fill_from(f32, part, random);
    else if (type == Type::f16)
      fill_from(f16, part, random);
    else if (type == Type::bf16)
      fill_from(bf16, part, random);
    else
      fill_blocks(type, deviation, part, random);
  });
}

}  // namespace ashlar::models
