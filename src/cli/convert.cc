// ashlar convert: a Hugging Face folder as a GGUF file, adapters merged into it.
#include "models/convert.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/interrupts.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

struct ConvertOptions {
  bool force = false, json = false;
  std::vector<std::string> merge_adapter;
  void fields(auto&& field) {
    field("merge_adapter", merge_adapter,
          "A LoRA adapter (PEFT folder or GGUF file) that becomes part of the weights. May be given many times.");
    field("force", force, "Overwrite OUT if it is there.");
    field("json", json, "For a script: what was written.");
  }
};

Result<models::ConvertFacts> write_converted(const std::string& model, const std::string& path,
                                             const ConvertOptions& options) {
  const std::string folder = TRY(find_model(model));
  auto out = models::NewFile::create(path, options.force);
  if (!out) {
    Error error = out.error();
    if (!options.force && std::filesystem::is_regular_file(path)) error.message += "; --force overwrites it";
    return error;
  }
  std::optional<Progress> progress;
  const auto watch = [&](std::uint64_t done, std::uint64_t total, std::string_view tensor) -> Status {
    if (interrupted()) return Error{Code::cancelled, "interrupted; nothing has been written"};
    if (!progress) progress.emplace("converting", static_cast<std::int64_t>(total));
    progress->at(static_cast<std::int64_t>(done), tensor);
    return {};
  };
  const models::ConvertFacts facts = TRY(models::convert_model(folder, options.merge_adapter, watch, *out));
  TRY(out->commit());
  return facts;
}

}  // namespace

int convert(const Words& words) {
  std::string folder, out;
  ConvertOptions options;
  CommandLine line{
      .name = "convert",
      .summary = "Write a Hugging Face folder (config.json, *.safetensors, a tokenizer) as one GGUF file.",
      .examples =
          "Weights keep their type, F32, F16 or BF16; other engines open the file too. To make it smaller afterwards:\n"
          "  ashlar convert Qwen3-0.6B/ qwen3-0.6b.gguf\n"
          "  ashlar quantize qwen3-0.6b.gguf qwen3-0.6b-Q4_K_M.gguf --type Q4_K_M\n"
          "  ashlar convert Qwen3-0.6B/ tuned.gguf --merge-adapter my-lora/\n"
          "OUT appears when it is whole: a failure or Ctrl-C leaves nothing behind.",
      .positionals = {{.name = "MODEL",
                       .help = "A folder as the model's publisher offers it, or the name of a pulled one; with --merge-adapter a GGUF file, too.",
                       .value = &folder,
                       .required = true},
                      {.name = "OUT", .help = "The GGUF file to write.", .value = &out, .required = true}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  catch_interrupts();
  const auto facts = write_converted(folder, out, options);
  if (!facts) {
    const int status = fail("convert", facts.error());
    return facts.error().code == Code::cancelled ? kInterrupted : status;
  }
  if (options.json)
    fmt::print("{}\n", dump_json({{"path", out},
                                  {"architecture", facts->architecture},
                                  {"tensors", facts->tensors},
                                  {"bytes", facts->bytes}}));
  else
    fmt::print("{}: {}, {} tensors, {}\n", out, facts->architecture, facts->tensors, to_string(Bytes{facts->bytes}));
  return 0;
}

}  // namespace ashlar::cli
