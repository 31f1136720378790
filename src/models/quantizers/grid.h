// How the codes of one block become values, for methods that choose codes one by one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "kernels/blocks.h"

namespace ashlar::models {

// Borrows `parts`, whose scales it has as they were when it was made.
struct Grid {
  Grid(kernels::Type type, const kernels::Parts& parts)
      : parts(parts),
        layout(kernels::kLayouts[kernels::format_of(type)]),
        sub(kernels::kBlock / layout.subs),
        d(kernels::f16_to_f32(parts.d)),
        dmin(layout.min ? kernels::f16_to_f32(parts.dmin) : 0),
        table(type == kernels::Type::iq4_nl || type == kernels::Type::iq4_xs) {}

  bool super() const { return layout.blocks > 1; }
  float scale(int at) const { return super() ? d * static_cast<float>(parts.scales[at / sub]) : d; }
  float min(int at) const {
    if (!layout.min) return 0;
    return super() ? -dmin * static_cast<float>(parts.mins[at / sub]) : dmin;
  }
  // What the scale is multiplied with.
  float level(int code) const {
    return table ? static_cast<float>(kernels::kIq4Table[code]) - 128 : static_cast<float>(code - layout.offset);
  }
  float value(int at) const { return scale(at) * level(parts.codes[at]) + min(at); }

  // The code nearest to `target`, and its value.
  std::pair<std::uint8_t, float> round(float target, int at) const {
    const float scale = this->scale(at), min = this->min(at);
    if (scale == 0) return {static_cast<std::uint8_t>(layout.offset), min};
    const float v = (target - min) / scale;
    int code = 0;
    if (table) {
      for (int i = 1; i < 16; ++i)
        if (std::abs(v - level(i)) < std::abs(v - level(code))) code = i;
    } else {
      constexpr float kWhole = 0x1.8p23f;  // what is added to it and taken away again is rounded to a whole number
      const float top = static_cast<float>((1 << layout.bits) - 1);
      const float within = std::clamp(v + static_cast<float>(layout.offset), 0.0f, top);
      code = static_cast<int>((within + kWhole) - kWhole);
    }
    return {static_cast<std::uint8_t>(code), scale * level(code) + min};
  }

  const kernels::Parts& parts;
  const kernels::Layout& layout;
  int sub;
  float d, dmin;
  bool table;
};

}  // namespace ashlar::models
