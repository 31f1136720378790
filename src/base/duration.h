// Times as people write them.
#pragma once

#include <chrono>
#include <string_view>

#include "base/result.h"

namespace ashlar {

// "5m", "1h30m", "1.5h", "30d", "2w", "250ms", or seconds alone: "90". Less than nothing, as "-1" or "-5m": -1 ms. At most ten
// years, which stand for all that is longer. invalid: no time, in one sentence.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

// The same for a number of seconds. invalid: not finite.
Result<std::chrono::milliseconds> duration_of(double seconds);

}  // namespace ashlar
