// The searches for scales, sixteen sub-blocks at a time, AVX-512.
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

#define ASHLAR_LANES 16
#include "kernels/search_lanes.h"

}  // namespace

void search(const ScaleSearch* job) { search_lanes(job); }

}  // namespace ashlar::kernels::avx512
