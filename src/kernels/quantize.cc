// Choosing scales and codes for the quantized types. The tries, their weights and their order are those that
// llama.cpp's quantizers publish, so that a file written here is worth what one written there is.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/result.h"
#include "kernels/blocks.h"
#include "kernels/codes.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr float kNothing = 1e-15f;            // scales below are 0
constexpr int kElements = 256 * kMostBlocks;  // of all the blocks of one call

// As nearest(), ties upwards.
int nearest_up(float value, int low, int high) {
  value += 0.5f;
  value = value > static_cast<float>(low) ? value : static_cast<float>(low);
  value = value < static_cast<float>(high) ? value : static_cast<float>(high);
  return static_cast<int>(std::floor(value));
}

float table_value(int code) { return static_cast<float>(kIq4Table[code]) - 128; }

// x as the nearest values of the IQ4 table.
void encode_table(const float* x, int n, float inverse, std::uint8_t* codes) {
  for (int i = 0; i < n; ++i) {
    const float v = inverse * x[i];
    int code = 0;
    for (int k = 1; k < 16; ++k) code += v >= (table_value(k - 1) + table_value(k)) / 2;
    codes[i] = byte(code);
  }
}

// The element of greatest magnitude, with its sign: it takes the end of the code range that reaches further.
float extreme(const float* x, int n) {
  float found = 0;
  for (int i = 0; i < n; ++i)
    if (std::abs(x[i]) > std::abs(found)) found = x[i];
  return found;
}

float sum_of_squares(const float* x, std::int64_t n) {
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// What errors weigh where columns have an importance: large elements count more.
void weigh(const float* x, const float* importance, int n, float square, float* weights) {
  for (int i = 0; i < n; ++i) weights[i] = importance[i] * std::sqrt(square + x[i] * x[i]);
}

// Scale (and min) from the range, for 32 elements.
void fit_range(Type type, const float* x, Parts& parts) {
  const Layout& layout = kLayouts[format_of(type)];
  const int top = (1 << layout.bits) - 1;
  if (layout.min) {
    const auto [low, high] = std::minmax_element(x, x + 32);
    const float d = (*high - *low) / static_cast<float>(top), inverse = reciprocal(d);
    parts.d = f32_to_f16(d);
    parts.dmin = f32_to_f16(*low);
    for (int i = 0; i < 32; ++i) parts.codes[i] = byte(nearest_up((x[i] - *low) * inverse, 0, top));
    return;
  }
  const float most = extreme(x, 32);
  if (type == Type::q8_0) {  // ties away from zero
    const float d = std::abs(most) / 127, inverse = reciprocal(d);
    parts.d = f32_to_f16(d);
    for (int i = 0; i < 32; ++i) {
      const float v = x[i] * inverse;
      parts.codes[i] = byte(128 + (v < 0 ? -nearest_up(-v, 0, 127) : nearest_up(v, 0, 127)));
    }
    return;
  }
  const float d = most / static_cast<float>(-layout.offset), inverse = reciprocal(d);
  parts.d = f32_to_f16(d);
  for (int i = 0; i < 32; ++i)
    parts.codes[i] = byte(nearest_up(x[i] * inverse + static_cast<float>(layout.offset), 0, top));
}

// Room for the scales of all sub-blocks of one call.
struct Found {
  float scale[kElements / 16], min[kElements / 16], inverse[kElements / 16], origin[kElements / 16];
};

ScaleSearch search_of(Type type, const float* x, int count, const float* weights, Found& found) {
  const Layout& layout = kLayouts[format_of(type)];
  ScaleSearch job{.kind = layout.min ? kWithMin : kSymmetric,
                  .x = x,
                  .count = count,
                  .n = kBlock / layout.subs,
                  .weighing = weights != nullptr ? kGiven : kBySquare,
                  .weights = weights,
                  .top = layout.min ? (1 << layout.bits) - 1 : layout.offset,
                  .begin = -0.9f,
                  .stride = 0.05f,
                  .steps = 36,
                  .absolute = false,
                  .scale = found.scale,
                  .min = found.min,
                  .inverse = found.inverse,
                  .origin = found.origin};
  if (type == Type::iq4_nl || type == Type::iq4_xs) job.kind = kInTable;
  if (weights != nullptr || !layout.min) {
    if (type == Type::q3_k && weights == nullptr) job.kind = kMoving;
    return job;
  }
  job.weighing = kBySpread;
  job.stride = 0.1f;
  job.begin = type == Type::q4_k ? -1.0f : -0.5f;
  job.steps = type == Type::q4_k ? 20 : 15;
  if (type == Type::q2_k) {
    job.weighing = kByMagnitude;
    job.absolute = true;
  }
  return job;
}

// One scale (and min) for 32 elements, searched.
void fit_small(Type type, const float* x, int i, const Found& found, Parts& parts) {
  const Layout& layout = kLayouts[format_of(type)];
  parts.d = f32_to_f16(found.scale[i]);
  if (type == Type::iq4_nl) return encode_table(x, 32, reciprocal(found.scale[i]), parts.codes);
  if (layout.min) parts.dmin = f32_to_f16(found.min[i]);
  const float origin = layout.min ? found.origin[i] : 0;
  const int top = (1 << layout.bits) - 1;
  for (int k = 0; k < 32; ++k)
    parts.codes[k] =
        byte(nearest(found.inverse[i] * (x[k] - origin), -layout.offset, top - layout.offset) + layout.offset);
}

// Whole numbers in [0, top] under one scale, which is returned, for values not below 0.
float fit_positive(const float* x, const float* weights, int n, int top, int* codes) {
  const float most = std::max(0.0f, *std::max_element(x, x + n));
  std::fill_n(codes, n, 0);
  if (!(most >= kNothing)) return 0;
  const auto error = [&](float inverse) {
    const float scale = 1 / inverse;
    float sum = 0;
    for (int i = 0; i < n; ++i) {
      const float off = x[i] - scale * static_cast<float>(nearest(inverse * x[i], 0, top));
      sum += weights[i] * off * off;
    }
    return sum;
  };
  float inverse = static_cast<float>(top) / most, least = error(inverse);
  for (int step = -4; step <= 4; ++step) {
    const float other = (0.1f * static_cast<float>(step) + static_cast<float>(top)) / most;
    const float left = step == 0 ? least : error(other);
    if (left < least) {
      least = left;
      inverse = other;
    }
  }
  float xl = 0, l2 = 0;
  for (int i = 0; i < n; ++i) {
    codes[i] = nearest(inverse * x[i], 0, top);
    const auto l = static_cast<float>(codes[i]);
    xl += weights[i] * x[i] * l;
    l2 += weights[i] * l * l;
  }
  bool moved = true;
  for (int round = 0; round < 5 && moved; ++round) {
    moved = false;
    for (int i = 0; i < n; ++i) {
      const float w = weights[i];
      float l = static_cast<float>(codes[i]), xl_now = xl - w * x[i] * l, l2_now = l2 - w * l * l;
      if (!(xl_now > 0) || !(l2_now > 0)) continue;
      const int other = nearest(x[i] * l2_now / xl_now, 0, top);
      if (other == codes[i]) continue;
      l = static_cast<float>(other);
      xl_now += w * x[i] * l;
      l2_now += w * l * l;
      if (xl_now * xl_now * l2 <= xl * xl * l2_now) continue;
      codes[i] = other;
      xl = xl_now;
      l2 = l2_now;
      moved = true;
    }
  }
  return l2 > 0 ? xl / l2 : 0;
}

// What a super-block's scales and mins become: whole numbers under an f16 each.
struct Uppers {
  float d, dmin;  // as they were before they became f16
};

// Scales not below 0, and mins.
Uppers fit_uppers_with_min(int top, const float* scales, const float* mins, const float* weights, int count,
                           Parts& parts) {
  float positive[16];
  for (int i = 0; i < count; ++i) positive[i] = -mins[i];
  if (weights != nullptr) {
    int codes[16];
    const float d = fit_positive(scales, weights, count, top, codes);
    for (int i = 0; i < count; ++i) parts.scales[i] = static_cast<std::int8_t>(codes[i]);
    const float dmin = fit_positive(positive, weights, count, top, codes);
    for (int i = 0; i < count; ++i) parts.mins[i] = byte(codes[i]);
    return {d, dmin};
  }
  const float most = std::max(0.0f, *std::max_element(scales, scales + count));
  const float most_min = std::max(0.0f, *std::max_element(positive, positive + count));
  const float inverse = most > 0 ? static_cast<float>(top) / most : 0;
  const float inverse_min = most_min > 0 ? static_cast<float>(top) / most_min : 0;
  for (int i = 0; i < count; ++i) {
    parts.scales[i] = static_cast<std::int8_t>(nearest(inverse * scales[i], 0, top));
    parts.mins[i] = byte(nearest(inverse_min * positive[i], 0, top));
  }
  return {most / static_cast<float>(top), most_min / static_cast<float>(top)};
}

Uppers fit_uppers(Type type, const float* scales, const float* weights, int count, Parts& parts) {
  const int top = type == Type::q6_k ? 128 : 32;
  if (type == Type::q3_k && weights != nullptr) {
    float scale, inverse;
    const ScaleSearch job{.kind = kSymmetric,
                          .x = scales,
                          .count = 1,
                          .n = count,
                          .weighing = kGiven,
                          .weights = weights,
                          .top = top,
                          .scale = &scale,
                          .inverse = &inverse};
    kernels().search(&job);
    for (int i = 0; i < count; ++i)
      parts.scales[i] = static_cast<std::int8_t>(nearest(inverse * scales[i], -top, top - 1));
    return {scale, 0};
  }
  const float most = extreme(scales, count);
  const bool nothing = !(std::abs(most) >= (type == Type::q6_k ? kNothing : std::numeric_limits<float>::min()));
  const float d = nothing ? 0 : type == Type::iq4_xs ? -most / 32 : 1 / (static_cast<float>(-top) / most);
  const float inverse = nothing ? 0 : type == Type::iq4_xs ? 1 / d : static_cast<float>(-top) / most;
  for (int i = 0; i < count; ++i)
    parts.scales[i] = static_cast<std::int8_t>(nearest(inverse * scales[i], -top, top - 1));
  return {d, 0};
}

// Codes for 256 elements under scales that are known now.
void encode_super(Type type, const float* x, Uppers uppers, Parts& parts) {
  const Layout& layout = kLayouts[format_of(type)];
  const int sub = kBlock / layout.subs;
  const float d = type == Type::iq4_xs ? uppers.d : f16_to_f32(parts.d), dmin = f16_to_f32(parts.dmin);
  const int low = -layout.offset, high = (1 << layout.bits) - 1 - layout.offset;
  for (int i = 0; i < 256; i += sub) {
    const float scale = d * static_cast<float>(parts.scales[i / sub]);
    const float min = layout.min ? dmin * static_cast<float>(parts.mins[i / sub]) : 0;
    std::uint8_t* codes = parts.codes + i;
    if (type == Type::iq4_xs)
      encode_table(x + i, sub, reciprocal(scale), codes);
    else if (scale != 0)
      for (int k = 0; k < sub; ++k) codes[k] = byte(nearest((x[i + k] + min) / scale, low, high) + layout.offset);
    else
      std::fill_n(codes, sub, byte(layout.offset));
  }
}

void fit_super(Type type, const float* x, const float* scales, const float* mins, const float* weights, Parts& parts) {
  const Layout& layout = kLayouts[format_of(type)];
  const int count = 8 * layout.subs;
  const Uppers uppers = layout.min
                            ? fit_uppers_with_min(type == Type::q2_k ? 15 : 63, scales, mins, weights, count, parts)
                            : fit_uppers(type, scales, weights, count, parts);
  parts.d = f32_to_f16(uppers.d);
  parts.dmin = f32_to_f16(uppers.dmin);
  encode_super(type, x, uppers, parts);
}

// The weights of all elements where columns have an importance, and of each sub-block their sum.
void weigh_all(Type type, const float* x, int count, const float* importance, float mean_square, float* weights,
               float* sums) {
  const int block = type_info(type).block, sub = kBlock / kLayouts[format_of(type)].subs;
  for (int i = 0; i < count * block; i += block) {
    const float own = sum_of_squares(x + i, block) / static_cast<float>(block);
    const bool whole_row = block == 32 && type != Type::iq4_nl;
    if (type == Type::q6_k)
      std::copy_n(importance + i, block, weights + i);
    else
      weigh(x + i, importance + i, block, whole_row ? mean_square : type == Type::q2_k ? own : 2 * own, weights + i);
  }
  for (int i = 0; i < count * block; i += sub) {
    float sum = 0;
    for (int k = 0; k < sub; ++k) sum += weights[i + k];
    sums[i / sub] = sum;
  }
}

// The greatest power of two of FP4 meets that of the greatest value, as the format's publishers advise.
void fit_mxfp4(const float* x, Parts& parts) {
  float most = 0;
  for (int i = 0; i < kBlock; ++i) most = std::max(most, std::abs(x[i]));
  const int exponent = std::isnormal(most) ? std::ilogb(most) - 3 : -25;
  parts.d = f32_to_f16(std::ldexp(1.0f, std::clamp(exponent, -25, 15)));
  const float d = f16_to_f32(parts.d), inverse = d > 0 ? 1 / d : 0;
  for (int i = 0; i < kBlock; ++i) {
    const auto error = [&](std::uint8_t value) { return std::abs(static_cast<float>(value) - 128 - x[i] * inverse); };
    parts.codes[i] = static_cast<std::uint8_t>(std::ranges::min_element(kFp4Table, {}, error) - kFp4Table);
  }
}

}  // namespace

void choose_parts(Type type, const float* x, int count, const float* importance, float mean_square, Parts* parts) {
  CHECK(count <= kMostBlocks, "so many blocks at once");
  if (type == Type::mxfp4) {
    for (int i = 0; i < count; ++i) fit_mxfp4(x + kBlock * i, parts[i]);
    return;
  }
  const int block = type_info(type).block, subs = block / (kBlock / kLayouts[format_of(type)].subs);
  if (type == Type::q8_0 || (block == 32 && type != Type::iq4_nl && importance == nullptr)) {
    for (int i = 0; i < count; ++i) fit_range(type, x + block * i, parts[i]);
    return;
  }
  Found found;
  float weights[kElements], sums[kElements / 16];
  if (importance != nullptr) weigh_all(type, x, count, importance, mean_square, weights, sums);
  const ScaleSearch job = search_of(type, x, count * subs, importance != nullptr ? weights : nullptr, found);
  kernels().search(&job);
  for (int i = 0; i < count; ++i) {
    if (block == 32)
      fit_small(type, x + block * i, i, found, parts[i]);
    else
      fit_super(type, x + block * i, found.scale + subs * i, found.min + subs * i,
                importance != nullptr ? sums + subs * i : nullptr, parts[i]);
  }
}

void quantize_row(Type type, const float* x, std::byte* out, std::int64_t n, const float* importance) {
  if (type == Type::f32) {
    std::memcpy(out, x, static_cast<std::size_t>(n) * 4);
    return;
  }
  if (type == Type::f16 || type == Type::bf16) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint16_t value = type == Type::f16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
      std::memcpy(out + 2 * i, &value, 2);
    }
    return;
  }
  const TypeInfo& info = type_info(type);
  if (info.block == 64) {
    for (std::int64_t first = 0; first < n; first += 64, out += info.bytes) quantize_64(type, x + first, out);
    return;
  }
  const float mean_square = importance != nullptr ? sum_of_squares(x, n) / static_cast<float>(n) : 0;
  Parts parts[kMostBlocks];
  for (std::int64_t first = 0; first < n; first += kMostBlocks * info.block) {
    const int count = static_cast<int>(std::min<std::int64_t>(kMostBlocks, (n - first) / info.block));
    choose_parts(type, x + first, count, importance != nullptr ? importance + first : nullptr, mean_square, parts);
    for (int i = 0; i < count; ++i, out += info.bytes) put_together(type, parts[i], out);
  }
}

}  // namespace ashlar::kernels
