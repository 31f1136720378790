// The table of kernels in use: chosen once by what this CPU and its operating
// system can do, never assumed.
#pragma once

#include <span>
#include <string_view>

#include "base/result.h"
#include "kernels/table.h"
#include "kernels/types.h"

namespace ashlar::kernels {

// The best row this CPU can run, or what select_isa() chose. Any thread.
const Kernels& kernels();

// Whether the kernels in use multiply rows of so many weights of this type on a matrix unit, so that activations meet
// them in tiles.
bool reads_tiles(Type type, int columns);

// All that this CPU can run, ref first, the best last.
std::span<const Kernels* const> kernel_rows();

// --isa: "ref", "avx2", "avx512", ... or "auto". At start, before any arithmetic.
// unsupported: not on this CPU; the message lists what is.
Status select_isa(std::string_view isa);

}  // namespace ashlar::kernels
