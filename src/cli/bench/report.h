// What `ashlar bench` shows: rows for a person, JSON for a script.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "cli/bench/limits.h"
#include "cli/bench/test.h"
#include "cli/terminal.h"

namespace ashlar::cli {

// One figure: tokens per second of prefill, of decode or of both together.
struct Rate {
  std::string name;  // "pp512", "tg128", "pp512+tg128"
  Figures tokens_per_second;
  double limit = 0;      // tokens per second
  std::string bound_by;  // "memory", "int8": what sets the limit; empty: prefill and decode have their own
  double share() const { return tokens_per_second.median / limit; }
};

struct Report {
  Outcome outcome;
  std::vector<Rate> rates;  // of a test that does both: together, prefill, decode
};

Report report_on(Outcome outcome, const models::Model& model, const Limits& limits, models::KvType kv, int chunk);

std::string limits_text(const Limits& limits);
std::string table_head();
std::string rows_text(const Report& report, const Palette& colour);  // several lines, with their ends
// Where the time of one pass goes; `title` names the phase.
std::string profile_text(std::string_view title, const Profiled& profiled);

Json to_json(const Limits& limits);
Json to_json(const Report& report);
Json to_json(const Profiled& profiled);

}  // namespace ashlar::cli
