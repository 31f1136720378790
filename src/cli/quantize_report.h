// What quantizing a model costs, by method and type: measured, and shown as a table, JSON or a picture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/threads.h"
#include "models/loader.h"

namespace ashlar::cli {

struct LayerError {
  int layer = 0;
  double error = 0;  // of what the layer adds to the stream, relative: models::layer_errors()
};

struct ReportRow {
  std::string method, type;  // "rtn", "Q4_K_M"; the model as it is: method empty
  std::uint64_t bytes = 0;   // of the file
  double bits = 0;           // of a weight, on average
  double perplexity = 0;
  double change = 0;              // of the perplexity, in %
  double speed = 0;               // tokens of decode a second, one sequence
  bool unsure = false;            // others disturbed the measuring of the speed
  std::vector<LayerError> worst;  // the worst first
};

struct QuantizeReport {
  std::string model, text;
  std::int64_t parameters = 0, tokens = 0;  // of the model; of the text, that were scored
  bool twice = false;                       // the model was quantized before: what that cost is in no row
  int threads = 0;
  std::string isa;
  std::vector<ReportRow> rows;     // the model as it is first
  std::vector<std::string> notes;  // what was left out, and why
};

struct ReportOptions {
  std::string types, methods;  // lists; empty: the usual ones
  std::string type, method;    // one more version, if it is not among them; empty: none
  std::string text;            // a file to score, or
  std::string calibration;     // the second half of this one, whose first half, or all of it, the methods look at
  std::string folder;          // where files are made for a while
  int window = 512, windows = 128;
  double damping = 0.01;
  bool act_order = false, large = false;  // as QuantizeJob has them
};

// Makes each version, measures it, removes it. A bar on the terminal. Nothing stays in the folder, whatever happens but
// SIGKILL. invalid: an unknown name, no text, a text too short; cancelled: interrupted(). Else as quantize_file() and
// models::load(). Versions that cannot be made of this model become notes.
Result<QuantizeReport> measure_report(const models::LoadedModel& model, const ReportOptions& options, ThreadPool& pool);

// What to take, in a sentence or two: by kind of machine, and by what the rows say.
std::string advice(const QuantizeReport& report);

std::string report_text(const QuantizeReport& report);
Json report_json(const QuantizeReport& report);
// Change of the perplexity over size, as an SVG document that follows the reader's light or dark setting.
std::string report_svg(const QuantizeReport& report);

}  // namespace ashlar::cli
