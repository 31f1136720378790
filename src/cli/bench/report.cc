#include "cli/bench/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"
#include "cli/bench/foreign_load.h"

namespace ashlar::cli {
namespace {

Rate rate_of(std::string name, const Outcome& outcome, int tokens, const Floor& floor, const Limits& limits,
             auto&& seconds) {
  std::vector<double> values;
  for (const Times& times : outcome.runs) values.push_back(tokens / seconds(times));
  return {std::move(name), figures_of(std::move(values)), tokens / floor.seconds(),
          floor.memory_bound() ? "memory" : limits.products.name};
}

double mean_foreign(const Outcome& outcome) {
  double sum = 0;
  for (const Times& times : outcome.runs) sum += times.foreign;
  return sum / static_cast<double>(outcome.runs.size());
}

std::string note_text(const Outcome& outcome, const Palette& colour) {
  const auto ran = static_cast<std::size_t>(outcome.disturbed) + (outcome.unsure ? 0 : outcome.runs.size());
  const std::size_t all = outcome.unsure ? outcome.runs.size() : ran;
  if (outcome.unsure)
    return fmt::format("  {}disturbed: others had {:.0f} % of the cores; {} of {} runs{}", colour.yellow,
                       100 * mean_foreign(outcome), outcome.disturbed, all, colour.plain);
  if (outcome.disturbed > 0)
    return fmt::format("  {}{} of {} runs disturbed, left out{}", colour.dim, outcome.disturbed, all, colour.plain);
  return {};
}

std::string share_text(const Rate& rate) {
  const std::string share = fmt::format("{:3.0f} %", 100 * rate.share());
  if (rate.bound_by.empty()) return share + " of both limits";
  return rate.bound_by == "memory" ? share + " of bandwidth" : fmt::format("{} of {} peak", share, rate.bound_by);
}

Json to_json(const Rate& rate) {
  const Figures& f = rate.tokens_per_second;
  Json json = {{"name", rate.name},
               {"tokens_per_second", {{"median", f.median}, {"min", f.min}, {"max", f.max}}},
               {"limit", rate.limit},
               {"share", rate.share()}};
  if (!rate.bound_by.empty()) json["bound_by"] = rate.bound_by;
  return json;
}

}  // namespace

Report report_on(Outcome outcome, const models::Model& model, const Limits& limits, models::KvType kv, int chunk) {
  const Test& test = outcome.test;
  const Floor prefill = prefill_floor(model, limits, test, kv, chunk), decode = decode_floor(model, limits, test, kv);
  std::vector<Rate> rates;
  const auto add = [&](std::string name, int tokens, const Floor& floor, auto&& seconds) -> Rate& {
    return rates.emplace_back(rate_of(std::move(name), outcome, tokens, floor, limits, seconds));
  };
  if (test.prefilled() > 0 && test.generate > 0) {
    Rate& both = add(test.name(), test.prefilled() + test.decoded(), prefill,
                     [](const Times& times) { return times.prefill + times.decode; });
    both.limit = (test.prefilled() + test.decoded()) / (prefill.seconds() + decode.seconds());
    both.bound_by.clear();
  }
  Test part = test;
  part.generate = 0;
  if (test.prefilled() > 0)
    add(part.name(), test.prefilled(), prefill, [](const Times& times) { return times.prefill; });
  part = {.generate = test.generate};
  if (test.generate > 0) add(part.name(), test.decoded(), decode, [](const Times& times) { return times.decode; });
  return {std::move(outcome), std::move(rates)};
}

std::string limits_text(const Limits& limits) {
  const auto peak = [](const Peak& p) { return fmt::format("{} {:.2f} T operations/s", p.name, p.per_second / 1e12); };
  std::string text = fmt::format("reads {:.1f} GB/s, {}", limits.bytes_per_second / 1e9, peak(limits.products));
  if (limits.attention.name != limits.products.name) text += ", attention " + peak(limits.attention);
  if (limits.foreign > kDisturbed)
    text += fmt::format(" (disturbed: others had {:.0f} % of the cores)", 100 * limits.foreign);
  return text;
}

std::string table_head() {
  return fmt::format("  {:<16} {:>5} {:>6} {:>10} {:>10} {:>10}   share\n", "test", "batch", "depth", "tokens/s",
                     "least", "most");
}

std::string rows_text(const Report& report, const Palette& colour) {
  const Test& test = report.outcome.test;
  std::string text;
  for (const Rate& rate : report.rates) {
    const bool first = &rate == report.rates.data();
    const Figures& f = rate.tokens_per_second;
    const std::string name = first ? rate.name : "  " + rate.name;
    const std::string where = first ? fmt::format("{:>5} {:>6}", test.batch, test.depth) : std::string(12, ' ');
    text += fmt::format("  {:<16} {} {:>10.1f} {:>10.1f} {:>10.1f}  {}{}\n", name, where, f.median, f.min, f.max,
                        share_text(rate), first ? note_text(report.outcome, colour) : "");
  }
  return text;
}

Json to_json(const Limits& limits) {
  return {{"read_bytes_per_second", limits.bytes_per_second},
          {"operations_per_second", limits.products.per_second},
          {"operations_kind", limits.products.name},
          {"attention_operations_per_second", limits.attention.per_second},
          {"attention_operations_kind", limits.attention.name},
          {"foreign_load", limits.foreign}};
}

// The first rate is the test's own; a test that does both has its parts beside it.
Json to_json(const Report& report) {
  const Outcome& outcome = report.outcome;
  Json json = to_json(report.rates.front());
  json["batch"] = outcome.test.batch;
  json["depth"] = outcome.test.depth;
  json["runs"] = outcome.runs.size();
  json["disturbed_runs"] = outcome.disturbed;
  json["disturbed"] = outcome.unsure;
  json["foreign_load"] = mean_foreign(outcome);
  if (report.rates.size() == 3) {
    json["prefill"] = to_json(report.rates[1]);
    json["decode"] = to_json(report.rates[2]);
  }
  if (outcome.prefill) json["profile"]["prefill"] = to_json(*outcome.prefill);
  if (outcome.decode) json["profile"]["decode"] = to_json(*outcome.decode);
  return json;
}

}  // namespace ashlar::cli
