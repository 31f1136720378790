// What a request may ask, whoever asks it. api/ checks its dialect's own ranges;
// these keep the engine whole.
#pragma once

#include "base/result.h"
#include "engine/generator.h"

namespace ashlar::engine {

// invalid: one sentence that names the field, what it has, and what it may have.
Status check(const Request& request, int vocabulary);

// The answer's length that fits: `max_tokens`, or what the context leaves (-1).
// invalid: the prompt and what was asked are more than `context`, with the numbers.
Result<int> answer_length(int prompt_tokens, int max_tokens, int context);

}  // namespace ashlar::engine
