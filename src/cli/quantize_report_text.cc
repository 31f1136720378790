// The report's table, JSON and advice.
#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"
#include "cli/quantize_report.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

// Versions of four bits, as their names have it.
bool four_bits(const ReportRow& row) {
  return row.type.starts_with("Q4") || row.type.starts_with("IQ4") || row.type.starts_with("W4");
}
std::string row_name(const ReportRow& row) { return fmt::format("{} {}", row.method, row.type); }

// The least by `key` of the versions that `take` takes; nullptr: none.
const ReportRow* least(const QuantizeReport& report, auto&& take, auto key) {
  const ReportRow* best = nullptr;
  for (const ReportRow& row : report.rows)
    if (!row.method.empty() && take(row) && (best == nullptr || row.*key < best->*key)) best = &row;
  return best;
}

// "awq at Q4_1 (+2.10 % where rtn has +1.50 %)", for each version that took more work than rounding and kept less.
std::vector<std::string> lost_to_rounding(const QuantizeReport& report) {
  std::vector<std::string> out;
  for (const ReportRow& row : report.rows) {
    if (row.method.empty() || row.method == "rtn") continue;
    for (const ReportRow& rtn : report.rows)
      if (rtn.method == "rtn" && rtn.type == row.type && rtn.perplexity <= row.perplexity)
        out.push_back(
            fmt::format("{} at {} ({:+.2f} % where rtn has {:+.2f} %)", row.method, row.type, row.change, rtn.change));
  }
  return out;
}

std::string worst_layers(const ReportRow& row) {
  std::string out;
  for (const LayerError& worst : row.worst)
    out += fmt::format("{}{} ({:.1f} %)", out.empty() ? "" : ", ", worst.layer, 100 * worst.error);
  return out;
}

}  // namespace

std::string advice(const QuantizeReport& report) {
  std::string out =
      "In general take awq at 4 bits, on an H100 and its kin FP8, and on edge and consumer machines gptq at 4 bits in "
      "a GGUF file";
  constexpr double kLittle = 1;  // % of perplexity
  if (const ReportRow* best = least(report, four_bits, &ReportRow::perplexity))
    out += fmt::format("; of 4 bits {} kept most of this model ({:+.2f} %)", row_name(*best), best->change);
  if (const ReportRow* small =
          least(report, [](const ReportRow& row) { return row.change <= kLittle; }, &ReportRow::bytes))
    out += fmt::format("; the smallest that costs at most {} % is {} ({}, {:+.2f} %)", kLittle, row_name(*small),
                       to_string(Bytes{small->bytes}), small->change);
  out += ".";
  if (const auto lost = lost_to_rounding(report); !lost.empty())
    out += fmt::format(" On this text plain rounding did better than {}: there take rtn.", fmt::join(lost, " and "));
  return out;
}

std::string report_text(const QuantizeReport& report) {
  const Palette colour = palette(stdout);
  std::string out = fmt::format("{}{}{}: {} parameters, {} threads, {}; perplexity over {} tokens of {}\n\n",
                                colour.bold, report.model, colour.plain, report.parameters, report.threads, report.isa,
                                report.tokens, report.text);
  out += fmt::format("{:<12}{:<9}{:>12}{:>7}{:>13}{:>11}{:>11}  {}\n", "method", "type", "size", "bits", "perplexity",
                     "change", "tokens/s", "worst layers (error of what they add)");
  for (const ReportRow& row : report.rows)
    out += fmt::format("{:<12}{:<9}{:>12}{:>7.2f}{:>13.4f}{:>11}{:>10.1f}{}  {}\n",
                       row.method.empty() ? "as it is" : row.method, row.type, to_string(Bytes{row.bytes}), row.bits,
                       row.perplexity, row.method.empty() ? "" : fmt::format("{:+.2f} %", row.change), row.speed,
                       row.unsure ? "?" : " ", worst_layers(row));
  if (std::ranges::any_of(report.rows, &ReportRow::unsure)) out += "?: other programs disturbed the measuring\n";
  if (report.twice) out += "The model is quantized already: what that cost is in none of the figures.\n";
  for (const std::string& note : report.notes) out += note + "\n";
  return out + "\n" + advice(report) + "\n";
}

Json report_json(const QuantizeReport& report) {
  Json rows = Json::array();
  for (const ReportRow& row : report.rows) {
    Json worst = Json::array();
    for (const LayerError& each : row.worst) worst.push_back({{"layer", each.layer}, {"error", each.error}});
    Json json = {{"method", row.method.empty() ? Json() : Json(row.method)},
                 {"type", row.type},
                 {"bytes", row.bytes},
                 {"bits_per_weight", row.bits},
                 {"perplexity", row.perplexity},
                 {"change_percent", row.change},
                 {"tokens_per_second", row.speed},
                 {"disturbed", row.unsure},
                 {"worst_layers", std::move(worst)}};
    rows.push_back(std::move(json));
  }
  return {{"model", report.model},   {"parameters", report.parameters},  {"text", report.text},
          {"tokens", report.tokens}, {"quantized_before", report.twice}, {"threads", report.threads},
          {"isa", report.isa},       {"rows", std::move(rows)},          {"notes", report.notes},
          {"advice", advice(report)}};
}

}  // namespace ashlar::cli
