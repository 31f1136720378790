// ashlar render: what a chat template makes of a conversation.
#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <filesystem>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"
#include "models/loader.h"
#include "text/chat_template.h"

namespace ashlar::cli {
namespace {

constexpr std::size_t kMaxTemplate = 4 << 20;
constexpr std::size_t kMaxContext = 256 << 20;

struct RenderOptions {
  std::string now, name;
  void fields(auto&& field) {
    field("now", now, "The local time that the template sees, as 2026-07-04T12:30; otherwise the clock's.");
    field("name", name, "Which of the model's named templates, e.g. tool_use; otherwise the default one.");
  }
};

struct Source {
  std::string text;
  std::string bos, eos;  // what the model file says of them
};

Result<std::time_t> parse_time(const std::string& text) {
  if (text.empty()) return std::time(nullptr);
  std::tm local{};
  for (const char* form : {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"}) {
    local = {};
    const char* end = strptime(text.c_str(), form, &local);
    if (end == nullptr || *end != '\0') continue;
    local.tm_isdst = -1;
    return std::mktime(&local);
  }
  return Error{Code::invalid, fmt::format("--now: '{}' is not a time: write it as 2026-07-04T12:30", text)};
}

// A file that is there and no model is a template.
bool is_template(const std::string& model) {
  if (model.ends_with(".jinja")) return true;
  std::error_code unknown;
  return !model.ends_with(".gguf") && std::filesystem::is_regular_file(model, unknown);
}

Result<Source> read_source(const std::string& model, const std::string& name) {
  if (is_template(model)) return Source{.text = TRY(read_file(model, kMaxTemplate))};
  const std::string path = TRY(find_model(model));
  const auto file = TRY(models::open_text(path));
  const auto templates = TRY(models::read_chat_templates(file));
  Source source{.text = templates.source};
  if (!name.empty()) {
    const auto named = templates.named.find(name);
    if (named == templates.named.end()) return Error{Code::not_found, fmt::format("{}: has no template called '{}'", path, name)};
    source.text = named->second;
  }
  if (source.text.empty()) return Error{Code::not_found, fmt::format("{}: has no chat template", path)};
  const auto vocabulary = TRY(models::read_vocabulary(file));
  const auto token = [&](text::TokenId id) { return id < 0 ? std::string() : vocabulary.tokens[static_cast<std::size_t>(id)]; };
  source.bos = token(vocabulary.bos);
  source.eos = token(vocabulary.eos);
  return source;
}

Result<std::string> rendered(const std::string& model, const std::string& context_path, const RenderOptions& options) {
  const std::time_t now = TRY(parse_time(options.now));
  Source source = TRY(read_source(model, options.name));
  const std::string context_text = TRY(read_file(context_path, kMaxContext));
  Json context = TRY(parse_json(context_text));
  if (!context.is_object())
    return Error{Code::invalid, fmt::format("{}: expected an object with \"messages\" and the like", context_path)};
  if (!source.bos.empty() && !context.contains("bos_token")) context["bos_token"] = source.bos;
  if (!source.eos.empty() && !context.contains("eos_token")) context["eos_token"] = source.eos;
  const auto parsed = TRY(text::ChatTemplate::parse(std::move(source.text)));
  return parsed->render(context, now);
}

}  // namespace

int render(const Words& words) {
  std::string model, context;
  RenderOptions options;
  CommandLine line{
      .name = "render",
      .summary = "The chat template's text for a conversation, and nothing else.",
      .examples = "CONTEXT.json is an object of the template's variables:\n"
                  "  {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}\n"
                  "bos_token and eos_token come from the model file where CONTEXT.json has none.",
      .positionals = {{.name = "MODEL", .help = "A GGUF file, a Hugging Face folder, the name of a pulled model, or a template: FILE.jinja.", .value = &model, .required = true},
                      {.name = "CONTEXT", .help = "A JSON file.", .value = &context, .required = true}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  const auto text = rendered(model, context, options);
  if (!text) return fail("render", text.error());
  std::fwrite(text->data(), 1, text->size(), stdout);
  return 0;
}

}  // namespace ashlar::cli
