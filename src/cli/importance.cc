// ashlar importance: which columns of a model's matrices matter, measured on a text.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/interrupts.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"
#include "models/formats/new_file.h"
#include "models/quantizers/importance.h"

namespace ashlar::cli {
namespace {

struct ImportanceOptions {
  std::string output;
  int window = 512, windows = 256, threads = 0;
  bool force = false;
  void fields(auto&& field) {
    field("output", output, "The GGUF file to write.");
    field("window", window, "Tokens in a window.");
    field("windows", windows, "Read at most so many windows, taken from all over the text.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("force", force, "Overwrite the file if it is there.");
  }
};

Status write_importance(const std::string& named, const std::string& text, const ImportanceOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  if (options.windows < 1) return Error{Code::invalid, "--windows: at least one window is read"};
  const std::string path = TRY(find_model(named));
  auto file = TRY(models::open_file(path));
  const auto model = TRY(models::open_model(std::move(file)));
  if (!model.config) return Error{Code::unsupported, fmt::format("{}: has a vocabulary but no weights", path)};
  const auto windows = TRY(read_windows(model, text, options.window, 1, options.windows));
  auto out = TRY(models::NewFile::create(options.output, options.force));
  ThreadPool pool(options.threads);
  Progress progress("measuring", static_cast<std::int64_t>(windows.tokens.size()) / windows.window * model.shape.layers);
  auto importance = TRY(models::measure_importance(model, windows.tokens, windows.window, pool,
                                                   [&](std::int64_t done, std::int64_t) -> Status {
    if (interrupted()) return Error{Code::cancelled, "interrupted; nothing has been written"};
    progress.at(done);
    return {};
  }));
  importance.texts.push_back(std::filesystem::path(text).filename());
  TRY(out.write(models::importance_file(importance)));
  TRY(out.commit());
  fmt::print("{}: {} matrices, measured on {} tokens in {:.1f} s\n", options.output, importance.entries.size(),
             windows.tokens.size(),
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return {};
}

}  // namespace

int importance(const Words& words) {
  std::string model, text;
  ImportanceOptions options;
  CommandLine line{.name = "importance",
                   .summary = "Measure which columns of a model's matrices matter, for `ashlar quantize --importance`.",
                   .examples =
                       "The text goes through the model, one layer in memory at a time; a column matters by the mean square of what\n"
                       "it is multiplied with. A text like those that the model will meet serves best; 50 000 tokens are plenty.\n"
                       "  ashlar importance model-BF16.gguf text.txt -o model.imatrix.gguf\n"
                       "  ashlar quantize model-BF16.gguf model-Q3_K_M.gguf --type Q3_K_M --importance model.imatrix.gguf\n"
                       "Other tools' quantizers read the file too, as we read theirs.",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file, a Hugging Face folder, or the name of a pulled model.", .value = &model, .required = true},
                                   {.name = "TEXT", .help = "A text file.", .value = &text, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (options.output.empty()) {
    fmt::print(stderr, "ashlar importance: --output: is needed\nTry `ashlar importance --help`.\n");
    return 2;
  }
  catch_interrupts();
  const auto done = write_importance(model, text, options);
  if (done) return 0;
  const int status = fail("importance", done.error());
  return done.error().code == Code::cancelled ? kInterrupted : status;
}

}  // namespace ashlar::cli
