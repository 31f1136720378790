// The searches for scales, eight sub-blocks at a time, AVX2.
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

#define ASHLAR_LANES 8
#include "kernels/search_lanes.h"

}  // namespace

void search(const ScaleSearch* job) { search_lanes(job); }

}  // namespace ashlar::kernels::avx2
