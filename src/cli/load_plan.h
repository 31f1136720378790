// What a load generator asks for: when, how long a prompt, how long an answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace ashlar::cli {

struct PlannedRequest {
  double at_seconds = 0;     // after the start; of a trace
  int prompt_tokens = 0;     // about: a word of ours is about a token
  int answer_tokens = 0;
  std::vector<std::int64_t> prefix_blocks;  // of 512 tokens each: equal ids, equal text
};

// Arrivals of a recorded trace, in order, at most `limit` (0: all): a CSV with the columns
// TIMESTAMP,ContextTokens,GeneratedTokens, or JSON lines with timestamp (ms),
// input_length, output_length and hash_ids. not_found, io, corrupt: with the line.
Result<std::vector<PlannedRequest>> read_trace(const std::string& path, std::size_t limit);

// Text of about `request.prompt_tokens` tokens. `number` sets apart what no
// prefix block fixes, so that two requests share no more than they should.
std::string prompt_text(const PlannedRequest& request, std::uint64_t number);

}  // namespace ashlar::cli
