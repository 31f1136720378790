// Packing for a matrix unit: types of 4 bits without a min (Q4_0, IQ4, U4Z, NF4, MXFP4), whose codes the kernels look
// up in a codebook for each factor. The layout is in table.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"

namespace ashlar::kernels {

// Whether the kernels in use read rows of so many weights of this type so.
bool by_codebooks(Type type, int columns);

// Of 16 weight rows.
std::size_t codebook_tile_bytes(int columns);

// `count` weight rows of the file, from `rows` on, into a tile of zeros. A row's group with a scale that is not finite
// or a zero beyond 0..16 gets a step that is not a number, so that its outputs show it.
void pack_codebooks(const RawMatrix& raw, const std::byte* rows, int count, std::uint8_t* tile);

}  // namespace ashlar::kernels
