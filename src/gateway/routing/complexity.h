// How hard a request looks, from its text alone and in well under a millisecond: to choose one of three tiers of
// models. A guess by features that everybody can read, in English and in Chinese; not a model.
#pragma once

#include "engine/generator.h"
#include "gateway/routing/trace.h"

namespace ashlar::gateway {

// In [0, 1]: the sum of its parts, cut off at 1. At most the first 16 KiB of the last question are read, and the
// length of all.
ScoreParts complexity_of(const engine::Request& request);

}  // namespace ashlar::gateway
