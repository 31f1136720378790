#pragma STDC FP_CONTRACT OFF
#include <cmath>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

// 32 codes of one lane as signed integers, before scaling.
void read_codes(Format format, const uint8_t* planes, int lane, int (&values)[kBlock]) {
  const Layout& layout = kLayouts[format];
  for (int k = 0; k < kBlock; ++k) {
    const int i = 4 * lane + k % 4;
    const auto nibble = [&](const uint8_t* p) { return p[64 * (k % 16 / 4) + i] >> 4 * (k / 16) & 15; };
    const auto pair = [&](const uint8_t* p) { return p[64 * (k / 16) + i] >> 2 * (k / 4 % 4) & 3; };
    const auto bit = [&](const uint8_t* p) { return p[i] >> k / 4 & 1; };
    int code = 0;
    switch (layout.bits) {
      case 8:
        code = planes[64 * (k / 4) + i];
        break;
      case 6:
        code = nibble(planes) | pair(planes + 256) << 4;
        break;
      case 5:
        code = nibble(planes) | bit(planes + 256) << 4;
        break;
      case 4:
        code = nibble(planes);
        break;
      case 3:
        code = pair(planes) | bit(planes + 128) << 2;
        break;
      default:
        code = pair(planes);
        break;
    }
    values[k] = layout.table != nullptr ? layout.table[code] - 128 : code - layout.offset;
  }
}

struct Scales {
  float scale[2];  // of each half of the block
  float min[2];    // added
};

float read_f16(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return f16_to_f32(bits);
}

Scales read_scales(Format format, const uint8_t* header, const uint8_t* integers, int lane) {
  const Layout& layout = kLayouts[format];
  if (layout.wide) {
    float d;
    std::memcpy(&d, header + 4 * lane, 4);
    return {{d, d}, {}};
  }
  const float d = read_f16(header + 2 * lane);
  if (layout.zero) {
    const float m = -(d * static_cast<float>(static_cast<int8_t>(header[32 + lane])));
    return {{d, d}, {m, m}};
  }
  const float m = layout.min ? read_f16(header + 32 + 2 * lane) : 0;
  if (layout.blocks == 1) return {{d, d}, {m, m}};
  Scales scales{};
  for (int h = 0; h < 2; ++h) {
    const uint8_t s = integers[kLanes * (layout.subs == 2 ? h : 0) + lane];
    if (format == kQ2_K) {
      scales.scale[h] = d * static_cast<float>(s & 15);
      scales.min[h] = -(m * static_cast<float>(s >> 4));
    } else {
      scales.scale[h] = d * static_cast<float>(static_cast<int8_t>(s));
      if (layout.min) scales.min[h] = -(m * static_cast<float>(integers[kLanes + lane]));
    }
  }
  return scales;
}

int dot(const int* w, const int8_t* x, int n) {
  int sum = 0;
  for (int k = 0; k < n; ++k) sum += w[k] * x[k];
  return sum;
}

float fused(float a, float b, float c) { return std::fma(a, b, c); }

// One block of 32 added to the running sum: the order that every row of the table keeps.
float accumulate(const Layout& layout, const Scales& s, const int* w, const PanelBlock& x, int r, float sum) {
  const int8_t* codes = x.codes[r];
  float product;
  if (layout.subs == 2) {
    product = static_cast<float>(dot(w, codes, 16)) * s.scale[0];
    product = fused(static_cast<float>(dot(w + 16, codes + 16, 16)), s.scale[1], product);
  } else {
    product = static_cast<float>(dot(w, codes, 32)) * s.scale[0];
  }
  sum = fused(product, x.scale[r], sum);
  if (layout.min && layout.subs == 2) {
    sum = fused(s.min[0], x.sum_half[0][r], sum);
    sum = fused(s.min[1], x.sum_half[1][r], sum);
  } else if (layout.min || layout.zero) {
    sum = fused(s.min[0], x.sum[r], sum);
  }
  return sum;
}

}  // namespace

void matmul_quantized(Format format, const MatmulJob& job) {
  const Layout& layout = kLayouts[format];
  const int header = header_bytes(layout);
  const int planes = kLanes * layout.scale_bytes;
  for (int r = 0; r < job.rows; ++r)
    for (int o = 0; o < job.outputs; ++o) job.y[static_cast<size_t>(r) * job.ldy + static_cast<size_t>(o)] = 0;
  for (int o = 0; o < job.outputs; ++o) {
    const int lane = o % kLanes;
    const uint8_t* p = job.tiles + job.tile_bytes * static_cast<size_t>(o / kLanes);
    for (int u = 0, b = 0; u < job.units; ++u) {
      const uint8_t* unit = p;
      p += header;
      for (int sub = 0; sub < layout.blocks; ++sub, ++b, p += planes + 64 * layout.bits) {
        const Scales scales = read_scales(format, unit, p, lane);
        int values[kBlock];
        read_codes(format, p + planes, lane, values);
        for (int r = 0; r < job.rows; ++r) {
          const auto* panel = reinterpret_cast<const PanelBlock*>(
              static_cast<const uint8_t*>(job.x) + job.panel_bytes * static_cast<size_t>(r / kPanelRows));
          float& sum = job.y[static_cast<size_t>(r) * job.ldy + static_cast<size_t>(o)];
          sum = accumulate(layout, scales, values, panel[b], r % kPanelRows, sum);
        }
      }
    }
  }
}

void matmul_floats(Format format, const MatmulJob& job) {
  for (int r = 0; r < job.rows; ++r) {
    const auto* panel = reinterpret_cast<const float*>(static_cast<const uint8_t*>(job.x) +
                                                       job.panel_bytes * static_cast<size_t>(r / kFloatPanelRows));
    const int left = job.rows - r / kFloatPanelRows * kFloatPanelRows;
    const int width = left >= 5 ? 8 : left >= 3 ? 4 : left;
    for (int o = 0; o < job.outputs; ++o) {
      const int lane = o % kLanes;
      const uint8_t* tile = job.tiles + job.tile_bytes * static_cast<size_t>(o / kLanes);
      float sum = 0;
      for (int k = 0; k < job.units; ++k) {
        float w;
        uint16_t half;
        if (format == kF32) {
          std::memcpy(&w, tile + 4 * (k * kLanes + lane), 4);
        } else if (format == kF16) {
          std::memcpy(&half, tile + 2 * (k * kLanes + lane), 2);
          w = f16_to_f32(half);
        } else {
          std::memcpy(&half, tile + 2 * (k / 2 * 2 * kLanes + 2 * lane + k % 2), 2);
          w = bf16_to_f32(half);
        }
        sum = fused(w, panel[k * width + r % kFloatPanelRows], sum);
      }
      job.y[static_cast<size_t>(r) * job.ldy + static_cast<size_t>(o)] = sum;
    }
  }
}

void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel) {
  for (int b = 0; b < columns / kBlock; ++b) {
    panel[b] = {};
    for (int r = 0; r < kPanelRows; ++r) panel[b].bias[r] = panel[b].bias_half[0][r] = panel[b].bias_half[1][r] = kLift;
    for (int r = 0; r < rows; ++r) {
      const float* v = x + static_cast<size_t>(r) * ldx + static_cast<size_t>(b) * kBlock;
      float most = 0;
      for (int k = 0; k < kBlock; ++k) most = std::fabs(v[k]) > most ? std::fabs(v[k]) : most;
      if (!(most >= 0x1p-100f)) continue;  // too small for 127 / most: the block counts as zero
      const float inverse = 127.0f / most;
      int halves[2] = {0, 0};
      for (int k = 0; k < kBlock; ++k) {
        const float scaled = v[k] * inverse;
        const int code = std::fabs(scaled) <= 127.5f ? static_cast<int>(std::nearbyint(scaled)) : 0;  // else not finite
        panel[b].codes[r][k] = static_cast<int8_t>(code);
        halves[k / 16] += code;
      }
      const float scale = most / 127.0f;
      panel[b].scale[r] = scale;
      panel[b].bias[r] = kLift - 128 * (halves[0] + halves[1]);
      panel[b].sum[r] = scale * static_cast<float>(halves[0] + halves[1]);
      for (int h = 0; h < 2; ++h) {
        panel[b].bias_half[h][r] = kLift - 128 * halves[h];
        panel[b].sum_half[h][r] = scale * static_cast<float>(halves[h]);
      }
    }
  }
}

}  // namespace ashlar::kernels::ref
