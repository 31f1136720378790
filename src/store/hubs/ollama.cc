// Ollama's registry, which is Docker's: GET /v2/REPO/manifests/TAG names layers by
// kind, sha256 and size; GET /v2/REPO/blobs/DIGEST redirects to storage. The file
// names are ours, by the layers' kinds.
#include <fmt/format.h>

#include <map>

#include "base/json_full.h"
#include "store/digest.h"
#include "store/fields.h"
#include "store/hub.h"
#include "store/names.h"

namespace ashlar::store {
namespace {

constexpr std::string_view kManifest = "application/vnd.docker.distribution.manifest.v2+json";
constexpr std::size_t kMostLayers = 1000;

// "application/vnd.ollama.image.model" gives "model.gguf"; "": not for us.
std::string name_of_layer(std::string media_type) {
  static const std::map<std::string, std::string, std::less<>> kNames = {
      {"model", "model.gguf"}, {"projector", "projector.gguf"}, {"adapter", "adapter.gguf"},   {"template", "template"},
      {"system", "system"},    {"params", "params.json"},       {"messages", "messages.json"}, {"license", "licence"}};
  constexpr std::string_view kPrefix = "application/vnd.ollama.image.";
  media_type = media_type.substr(0, media_type.find(';'));
  if (!media_type.starts_with(kPrefix)) return "";
  const auto found = kNames.find(media_type.substr(kPrefix.size()));
  return found == kNames.end() ? "" : found->second;
}

// "model.gguf", then "model-2.gguf".
std::string numbered(const std::string& name, int count) {
  if (count == 1) return name;
  const std::size_t dot = std::min(name.rfind('.'), name.size());
  return fmt::format("{}-{}{}", name.substr(0, dot), count, name.substr(dot));
}

}  // namespace

Result<RepositoryListing> read_ollama(std::string_view text) {
  const Json json = TRY(parse_json(text, {.depth = 16, .members = 256, .elements = kMostLayers}));
  const Json& layers = member(json, "layers");
  if (!layers.is_array()) return Error{Code::corrupt, "the registry's manifest names no layers"};
  RepositoryListing out{.version = parse_sha256(text_of(member(json, "config"), "digest")).value_or("")};
  std::map<std::string, int> counts;
  for (const Json& layer : layers) {
    const std::string name = name_of_layer(text_of(layer, "mediaType"));
    if (name.empty()) continue;
    auto digest = parse_sha256(text_of(layer, "digest"));
    const auto size = count_of(layer, "size");
    if (!digest || !size) return Error{Code::corrupt, "the registry's manifest has a layer without digest or size"};
    out.files.push_back(
        {.name = numbered(name, ++counts[name]), .size = size, .sha256 = *std::move(digest), .git_sha1 = ""});
  }
  if (counts["model.gguf"] == 0) return Error{Code::unsupported, "the registry's manifest has no GGUF model"};
  return out;
}

Result<Listing> list_ollama(Courier& courier, const HubSettings& settings, const Reference& reference,
                            const Poll& poll) {
  const std::string what = reference.text();
  const std::string& endpoint = reference.host.empty() ? settings.ollama_endpoint : reference.host;
  const std::string base = fmt::format("{}/v2/{}", endpoint, reference.repository);
  const Document answer = TRY(courier.ask(what, {.url = fmt::format("{}/manifests/{}", base, reference.revision)},
                                          {.headers = {{"accept", std::string(kManifest)}}, .limit = 4 << 20}, poll));
  auto repository = read_ollama(answer.body);
  if (!repository) return Error{repository.error().code, fmt::format("{}: {}", what, repository.error().message)};
  Listing listing{.endpoint = endpoint, .version = repository->version};
  for (Listed& file : repository->files) {
    const std::string url = fmt::format("{}/blobs/sha256:{}", base, file.sha256);
    if (file.name == "licence" && listing.licence.empty()) {
      // Its first line names it: "Apache License", "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT".
      const Document licence = TRY(courier.ask(what, {.url = url}, {.limit = 1 << 20}, poll));
      if (to_hex(sha256(licence.body)) == file.sha256) {
        const std::size_t begin = std::min(licence.body.find_first_not_of(" \t\r\n"), licence.body.size());
        listing.licence =
            plain(licence.body.substr(begin, std::min<std::size_t>(80, licence.body.find('\n', begin) - begin)));
      }
    }
    listing.files.push_back({.name = file.name, .address = {.url = url}, .size = file.size, .sha256 = file.sha256});
  }
  return listing;
}

}  // namespace ashlar::store
