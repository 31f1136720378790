// ashlar pull: a model from a hub into the store.
#include <fmt/format.h>

#include <chrono>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/interrupts.h"
#include "cli/pull_screen.h"
#include "cli/terminal.h"
#include "store/digest.h"

namespace ashlar::cli {
namespace {

struct PullOptions {
  std::string name, sha256;
  bool json = false;
  store::StoreOptions store = store::store_options_from_environment();
  void fields(auto&& field) {
    field("name", name, "Another name for it, to be used instead of the long one.");
    field("sha256", sha256, "What the file's checksum shall be, where no hub says it (https://).");
    field("json", json, "For a script: what was pulled.");
    store.fields(field);
  }
};

Result<store::Manifest> pull_model(const std::string& what, const PullOptions& options) {
  store::PullRequest request{.reference = TRY(store::parse_reference(what)), .alias = options.name};
  if (!options.sha256.empty()) {
    const auto digest = store::parse_sha256(options.sha256);
    if (!digest) return Error{Code::invalid, "--sha256: expected 64 hexadecimal digits"};
    request.sha256 = *digest;
  }
  const auto store = TRY(store::ModelStore::open(options.store));
  PullScreen screen(request.reference.short_name());
  return store->pull(request, screen.watch());
}

}  // namespace

int pull(const Words& words) {
  std::string what;
  PullOptions options;
  CommandLine line{
      .name = "pull",
      .summary =
          "Fetch a model from a hub: in parallel parts, checked against the hub's checksums, and once for all names.",
      .examples =
          "WHAT is one of:\n"
          "  hf:ORG/REPO[@REVISION][:FILE]   Hugging Face; FILE may be a quantization: hf:Qwen/Qwen3-0.6B-GGUF:Q8_0\n"
          "  ms:ORG/REPO[@REVISION][:FILE]   ModelScope\n"
          "  ollama:NAME[:TAG]               Ollama's registry: ollama:qwen3:0.6b\n"
          "  s3://BUCKET/KEY                 an object, or all under KEY/\n"
          "  https://HOST/FILE.gguf          any server\n"
          "Then: ashlar run NAME, ashlar serve NAME; `ashlar list` shows the names.\n"
          "Stopped in the middle, even killed, the same command goes on where it was.\n"
          "The environment: HF_ENDPOINT (a mirror), HF_TOKEN, MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, "
          "OLLAMA_REGISTRY,\n"
          "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; ASHLAR_OFFLINE=1 forbids all of it.",
      .positionals = {{.name = "WHAT", .help = "Where it is.", .value = &what, .required = true}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  catch_interrupts();
  const auto begin = std::chrono::steady_clock::now();
  const auto manifest = pull_model(what, options);
  if (!manifest) {
    const int status = fail("pull", manifest.error());
    return manifest.error().code == Code::cancelled ? kInterrupted : status;
  }
  if (options.json) {
    fmt::print("{}\n", dump_json(store::manifest_json(*manifest)));
    return 0;
  }
  const auto took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("{}: {} file{}, {}, in {:.1f} s{}\n", manifest->reference, manifest->files.size(),
             manifest->files.size() == 1 ? "" : "s", to_string(Bytes{manifest->bytes()}), took,
             manifest->licence.empty() ? "" : "; licence: " + manifest->licence);
  const auto names = store::names_of(*manifest);
  fmt::print("Try: ashlar run {}\n", manifest->alias.empty() ? names.full.front() : manifest->alias);
  return 0;
}

}  // namespace ashlar::cli
