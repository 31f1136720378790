// How the tile registers are set up. For amx files only; internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/table.h"
#include "kernels/x86/avx512_math.h"

namespace ashlar::kernels::amx {
namespace {

using avx512::least;
using avx512::most;

// What Intel's TILECFG holds: palette 1, then bytes of a line and lines of each register.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t line_bytes[16] = {};
  uint8_t lines[16] = {};
};

// Registers whose bit is set in `whole` hold 16 lines of 64 bytes, the others `rows`: a product takes as many cycles
// as its left side has lines.
ASHLAR_INLINE void configure_tiles(int rows, unsigned whole) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.line_bytes[t] = 64;
    config.lines[t] = (uint8_t)((whole >> t & 1) != 0 ? kTileRows : rows);
  }
  asm volatile("" ::: "memory");  // compilers forget that the instruction reads all of it
  _tile_loadconfig(&config);
}

}  // namespace
}  // namespace ashlar::kernels::amx
