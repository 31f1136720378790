// The report as a picture: change of the perplexity (logarithmic) over size.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/quantize_report.h"

namespace ashlar::cli {
namespace {

constexpr double kWidth = 860, kHeight = 520, kLeft = 90, kRight = 130, kTop = 90, kBottom = 60;

// As bench/plot.py has it.
constexpr std::string_view kStyle = R"(
  text { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  .title { font-size: 15px; font-weight: 600; }
  .page { fill: #ffffff; } .ink { fill: #1f2328; } .soft { fill: #59636e; } .grid { stroke: #d1d9e0; } .mark { stroke: #59636e; }
  .rtn { fill: #59636e; } .gptq { fill: #0969da; } .awq { fill: #1a7f37; } .smoothquant { fill: #8250df; } .original { fill: #1f2328; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } .ink { fill: #f0f6fc; } .soft { fill: #9198a1; } .grid { stroke: #30363d; } .mark { stroke: #9198a1; }
    .rtn { fill: #9198a1; } .gptq { fill: #4493f8; } .awq { fill: #3fb950; } .smoothquant { fill: #ab7df8; } .original { fill: #f0f6fc; }
    text { stroke: #0d1117; }
  }
)";

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  return out;
}

class Picture {
 public:
  explicit Picture(const QuantizeReport& report) : report_(report) {
    for (const ReportRow& row : report.rows) {
      most_bytes_ = std::max(most_bytes_, static_cast<double>(row.bytes));
      least_ = std::min(least_, height_of(row.change));
      most_ = std::max(most_, height_of(row.change));
    }
    most_bytes_ *= 1.05;
    const double margin = 0.05 * (most_ - least_);
    least_ -= margin;
    most_ += margin;
  }

  std::string svg() {
    const std::string label = escaped(report_.model + ": quality over size");
    text(16, 28, label, "ink title");
    text(16, 48, escaped(fmt::format("perplexity over {} tokens of {}", report_.tokens, report_.text)), "soft");
    axes();
    legend();
    points();
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" "
        "aria-label=\"{2}\">\n<style>{3}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\" "
        "rx=\"6\"/>\n{4}</svg>\n",
        kWidth, kHeight, label, kStyle, body_);
  }

 private:
  static double height_of(double change) { return std::log1p(std::max(change, -99.0) / 100); }
  double x(double bytes) const { return kLeft + (kWidth - kLeft - kRight) * bytes / most_bytes_; }
  double y(double change) const {
    return kTop + (kHeight - kTop - kBottom) * (most_ - height_of(change)) / (most_ - least_);
  }
  void text(double at_x, double at_y, std::string_view words, std::string_view style,
            std::string_view anchor = "start") {
    body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\" text-anchor=\"{}\">{}</text>\n", at_x, at_y,
                         style, anchor, words);
  }
  void line(double x1, double y1, double x2, double y2, std::string_view style) {
    body_ +=
        fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\" stroke-width=\"1\"/>\n",
                    x1, y1, x2, y2, style);
  }

  void axes() {
    const double bottom = kHeight - kBottom, right = kWidth - kRight;
    double before = -1e9;
    for (const double change :
         {0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 1e4, 1e5, 1e6}) {
      const double at = y(change);
      if (height_of(change) > most_ || std::abs(at - before) < 18) continue;
      line(kLeft, at, right, at, change == 0 ? "mark" : "grid");
      text(kLeft - 8, at + 4, fmt::format("{}{:g} %", change > 0 ? "+" : "", change), "soft", "end");
      before = at;
    }
    constexpr int kTicks = 5;
    for (int i = 0; i <= kTicks; ++i) {
      const double bytes = most_bytes_ * i / kTicks;
      line(x(bytes), kTop, x(bytes), bottom, "grid");
      text(x(bytes), bottom + 18, to_string(Bytes{static_cast<std::uint64_t>(bytes)}), "soft", "middle");
    }
    text(right, bottom + 40, "size", "soft", "end");
    text(16, kTop - 14, "change of perplexity", "soft");
  }

  void legend() {
    std::vector<std::string> methods;
    double at = kLeft + 110;
    for (const ReportRow& row : report_.rows) {
      if (std::ranges::find(methods, row.method) != methods.end()) continue;
      methods.push_back(row.method);
      const std::string name = row.method.empty() ? "as it is" : row.method;
      dot(at, kTop - 18, row);
      text(at + 10, kTop - 14, escaped(name), "soft");
      at += 40 + 6.5 * static_cast<double>(name.size());
    }
  }

  void dot(double at_x, double at_y, const ReportRow& row) {
    body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" class=\"{}\"/>\n", at_x, at_y,
                         row.method.empty() ? "original" : escaped(row.method));
  }

  // From above; a name that would lie on another moves below it.
  void points() {
    std::vector<const ReportRow*> rows;
    for (const ReportRow& row : report_.rows) rows.push_back(&row);
    std::ranges::sort(rows, std::ranges::greater{}, &ReportRow::change);
    struct Place {
      double x, y;
    };
    std::vector<Place> names;
    for (const ReportRow* row : rows) {
      const double at = x(static_cast<double>(row->bytes));
      dot(at, y(row->change), *row);
      Place place{at + 9, y(row->change) + 4};
      for (const Place& other : names)
        if (std::abs(other.x - place.x) < 90 && std::abs(other.y - place.y) < 13) place.y = other.y + 13;
      names.push_back(place);
      text(place.x, place.y, escaped(row->method.empty() ? row->type : row->method + " " + row->type), "ink");
    }
  }

  const QuantizeReport& report_;
  std::string body_;
  double most_bytes_ = 1, least_ = 0, most_ = std::log1p(0.001);  // heights, as height_of() has them
};

}  // namespace

std::string report_svg(const QuantizeReport& report) { return Picture(report).svg(); }

}  // namespace ashlar::cli
