// ashlar show: what is in a model file.
#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/pull_screen.h"
#include "cli/terminal.h"
#include "models/loader.h"

namespace ashlar::cli {
namespace {

struct ShowOptions {
  int context = 0;
  bool tensors = false, keys = false, chat_template = false, json = false;
  store::StoreOptions store = store::store_options_from_environment();
  void fields(auto&& field) {
    field("context", context, "Say what memory a conversation of this many tokens needs; 0: 4096, and all that the model was trained for.");
    field("tensors", tensors, "List every tensor: its name, type and dimensions.");
    field("keys", keys, "List every key of the file's metadata.");
    field("template", chat_template, "Print the chat template, and nothing else.");
    field("json", json, "For a script.");
    store.fields(field);
  }
};

std::string short_count(std::int64_t n) {
  if (n >= 1'000'000'000) return fmt::format("{:.2f} B", static_cast<double>(n) / 1e9);
  if (n >= 1'000'000) return fmt::format("{:.1f} M", static_cast<double>(n) / 1e6);
  if (n >= 1'000) return fmt::format("{:.1f} K", static_cast<double>(n) / 1e3);
  return fmt::format("{}", n);
}

std::string value_text(const models::gguf::Value& value) {
  if (const auto text = value.string()) return models::gguf::quoted(*text);
  if (const auto flag = value.boolean()) return *flag ? "true" : "false";
  if (const auto whole = value.integer()) return fmt::format("{}", *whole);
  if (const auto number = value.number()) return fmt::format("{:g}", *number);
  return fmt::format("{} of {}", value.count, models::gguf::name(value.element_type));
}

// "window of 512 in 5 of 6 layers"
std::string window_text(const models::Shape& shape) {
  int windowed = 0;
  for (int layer = 0; layer < shape.layers; ++layer) windowed += shape.window(layer) > 0;
  if (windowed == 0) return "";
  if (windowed == shape.layers) return fmt::format(", window of {}", shape.sliding_window);
  return fmt::format(", window of {} in {} of {} layers", shape.sliding_window, windowed, shape.layers);
}

// The KV cache of one sequence of `tokens`, f16.
Bytes kv_bytes(const models::Shape& shape, std::int64_t tokens) {
  return {static_cast<std::uint64_t>(tokens) * 2 * 2 * static_cast<std::uint64_t>(shape.layers) *
          static_cast<std::uint64_t>(shape.kv_heads) * static_cast<std::uint64_t>(shape.head_dim)};
}

std::vector<std::int64_t> contexts(const models::Shape& shape, int asked) {
  if (asked > 0) return {asked};
  std::vector<std::int64_t> out;
  if (shape.context > 4096) out.push_back(4096);
  out.push_back(shape.context);
  return out;
}

Json as_json(const models::LoadedModel& model, int context) {
  const auto& shape = model.shape;
  Json types = Json::object();
  for (const auto& [type, bytes] : model.facts.type_bytes) types[type] = bytes.count;
  Json out = {{"name", model.facts.name},         {"architecture", model.facts.architecture},
              {"file_type", model.facts.file_type}, {"parameters", model.facts.parameters},
              {"bytes", model.facts.bytes.count},   {"type_bytes", types},
              {"format", model.file->assembled() ? "safetensors" : "gguf"},
              {"gguf_version", model.file->version()}, {"files", model.file->files()},
              {"tensors", model.file->tensors().size()}, {"vocabulary", shape.vocabulary},
              {"tokenizer", model.vocabulary.model},  {"pre_tokenizer", model.vocabulary.pre},
              {"chat_template", !model.templates.source.empty()}};
  if (shape.layers > 0) {
    out.update({{"layers", shape.layers}, {"width", shape.width}, {"hidden", shape.hidden}, {"heads", shape.heads},
                {"kv_heads", shape.kv_heads}, {"head_dim", shape.head_dim}, {"context", shape.context},
                {"sliding_window", shape.sliding_window}, {"full_attention_every", shape.full_every}});
    Json memory = Json::array();
    for (const auto tokens : model.config->encoder ? std::vector<std::int64_t>() : contexts(shape, context))
      memory.push_back({{"context", tokens}, {"kv_bytes", kv_bytes(shape, tokens).count},
                        {"total_bytes", kv_bytes(shape, tokens).count + model.facts.bytes.count}});
    out["memory"] = memory;
  }
  return out;
}

void print_facts(const models::LoadedModel& model, int context) {
  const Palette colour = palette(stdout);
  const auto row = [&](std::string_view label, const std::string& text) {
    fmt::print("  {}{:<14}{} {}\n", colour.dim, label, colour.plain, text);
  };
  const auto& facts = model.facts;
  const auto& shape = model.shape;
  fmt::print("{}{}{}\n", colour.bold, facts.name, colour.plain);
  const std::string format =
      model.file->assembled() ? "Hugging Face folder" : fmt::format("GGUF v{}", model.file->version());
  row("file", fmt::format("{}, {}{}, {} tensors", format, to_string(facts.bytes),
                          model.file->files() > 1 ? fmt::format(" in {} files", model.file->files()) : "",
                          model.file->tensors().size()));
  if (!facts.architecture.empty()) row("architecture", facts.architecture);
  if (facts.parameters > 0) row("parameters", short_count(facts.parameters));
  if (!facts.type_bytes.empty()) {
    std::vector<std::pair<std::string, Bytes>> types(facts.type_bytes.begin(), facts.type_bytes.end());
    std::ranges::sort(types, std::ranges::greater{}, &std::pair<std::string, Bytes>::second);
    std::string text = facts.file_type + ":";
    for (const auto& [type, bytes] : types) text += fmt::format(" {} {},", type, to_string(bytes));
    text.pop_back();
    row("types", text);
  }
  if (shape.layers > 0) {
    row("shape", fmt::format("{} layers, width {}, feed-forward {}", shape.layers, shape.width, shape.hidden));
    row("attention", fmt::format("{} heads over {} KV heads of {}{}", shape.heads, shape.kv_heads, shape.head_dim,
                                 window_text(shape)));
    row("context", fmt::format("{} tokens", shape.context));
  }
  if (model.vocabulary.tokens.empty()) row("tokenizer", "none");
  else
    row("tokenizer", fmt::format("{}{}, {} tokens", model.vocabulary.model,
                                 model.vocabulary.pre.empty() ? "" : " (" + model.vocabulary.pre + ")", shape.vocabulary));
  std::string named;
  for (const auto& [name, source] : model.templates.named) named += fmt::format(", {}: {} bytes", name, source.size());
  row("chat template", model.templates.source.empty() ? "none" + named
                                                      : fmt::format("{} bytes{}", model.templates.source.size(), named));
  if (shape.layers > 0 && !model.config->encoder)  // an encoder keeps no keys and values
    for (const auto tokens : contexts(shape, context))
      row("memory", fmt::format("{} for a context of {}: weights {}, keys and values {} (f16)",
                                to_string(Bytes{facts.bytes.count + kv_bytes(shape, tokens).count}), tokens,
                                to_string(facts.bytes), to_string(kv_bytes(shape, tokens))));
}

// What the store knows of a pulled model.
void print_manifest(const store::Manifest& manifest) {
  const Palette colour = palette(stdout);
  const auto row = [&](std::string_view label, const std::string& text) {
    if (!text.empty()) fmt::print("  {}{:<14}{} {}\n", colour.dim, label, colour.plain, text);
  };
  fmt::print("{}{}{}\n", colour.bold, manifest.reference, colour.plain);
  row("name", manifest.alias);
  row("from", manifest.endpoint + (manifest.version.empty() ? "" : " at " + manifest.version));
  row("licence", manifest.licence);
  row("pulled", store::utc_text(manifest.pulled_at));
  for (const auto& file : manifest.files)
    row("file", fmt::format("{}  {}  sha256 {}{}", file.name, to_string(Bytes{file.size}), file.sha256,
                            file.checked_by.empty() ? " (the source tells none)" : ""));
}

int show_file(const std::string& path, const ShowOptions& options, const store::Manifest* manifest) {
  ThreadPool pool(1);
  const auto model = models::load(path, {.weights = false}, pool);
  if (!model) return fail("show", model.error());
  if (options.chat_template) {
    if (model->templates.source.empty()) return fail("show", {Code::not_found, path + ": has no chat template"});
    fmt::print("{}", model->templates.source);
    return 0;
  }
  if (options.json) {
    Json out = as_json(*model, options.context);
    if (manifest != nullptr) out["store"] = store::manifest_json(*manifest);
    fmt::print("{}\n", dump_json(out));
    return 0;
  }
  if (manifest != nullptr) print_manifest(*manifest);
  print_facts(*model, options.context);
  if (options.keys)
    for (const auto& key : model->file->keys()) fmt::print("  {} = {}\n", key.name, value_text(key.value));
  if (options.tensors)
    for (const auto& tensor : model->file->tensors())
      fmt::print("  {:<40} {:<7} {}\n", tensor.name, kernels::type_info(tensor.type).name, models::gguf::dims_text(tensor));
  return 0;
}

Result<store::Found> find_stored(const std::string& name, const store::StoreOptions& options) {
  const auto store = TRY(store::ModelStore::open(options));
  PullScreen screen(name);
  return store->ready(name, screen.watch());
}

}  // namespace

int show(const Words& words) {
  std::string path;
  ShowOptions options;
  CommandLine line{.name = "show",
                   .summary = "What is in a model file: architecture, sizes, types, tokenizer, template, and the memory it needs.",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file, of a split one any part; a Hugging Face folder; or the name of a pulled model: then also its source, licence and checksums.", .value = &path, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (access(path.c_str(), F_OK) == 0) return show_file(path, options, nullptr);
  const auto found = find_stored(path, options.store);
  if (!found) return fail("show", path.find('/') == 0 ? Error{Code::not_found, path + ": no such file"} : found.error());
  const bool folder = std::filesystem::exists(std::filesystem::path(found->path) / "config.json");
  if (found->path.ends_with(".gguf") || folder) return show_file(found->path, options, &found->manifest);
  if (options.json)
    fmt::print("{}\n", dump_json({{"store", store::manifest_json(found->manifest)}}));
  else
    print_manifest(found->manifest);
  return 0;
}

}  // namespace ashlar::cli
