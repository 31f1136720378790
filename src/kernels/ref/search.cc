// The searches for scales, on vectors that every processor has.
#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

#define ASHLAR_LANES 4
#include "kernels/search_lanes.h"

}  // namespace

void search(const ScaleSearch* job) { search_lanes(job); }

}  // namespace ashlar::kernels::ref
