// What a judge is asked, and what its answer means.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ashlar::gateway {

// {question} and {answer} of `form` replaced, once each and not in what was put there; "": our own form.
std::string judge_prompt(std::string_view form, std::string_view question, std::string_view answer);

// The number from 0 to 1 that a judge means: "0.8", "Score: 8/10.", "80 %", {"score": 0.8}. Of several numbers the one
// behind the last "score", or else the only one that stands alone in its line. Nothing: it is not clear.
std::optional<double> read_score(std::string_view text);

}  // namespace ashlar::gateway
