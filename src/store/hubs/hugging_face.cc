// Hugging Face: GET /api/models/REPO/revision/REV?blobs=true lists the files, with
// the sha256 of those in large-file storage and git's own sha1 of the others;
// GET /REPO/resolve/COMMIT/FILE redirects to a content network.
#include <fmt/format.h>

#include "base/json_full.h"
#include "store/digest.h"
#include "store/fields.h"
#include "store/hub.h"
#include "store/names.h"
#include "store/wire.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kMostFiles = 100'000;

// A card may name the licence as one word, several, or in the tags.
std::string licence_of(const Json& json) {
  const Json& licence = member(member(json, "cardData"), "license");
  std::string out;
  if (licence.is_string()) out = licence.get<std::string>();
  if (licence.is_array())
    for (const Json& each : licence)
      if (each.is_string()) out += (out.empty() ? "" : ", ") + each.get<std::string>();
  if (const auto name = text_of(member(json, "cardData"), "license_name"); out == "other" && !name.empty()) out = name;
  const Json& tags = member(json, "tags");
  if (out.empty() && tags.is_array())
    for (const Json& tag : tags)
      if (constexpr std::string_view kMark = "license:";
          tag.is_string() && tag.get_ref<const std::string&>().starts_with(kMark))
        out = tag.get_ref<const std::string&>().substr(kMark.size());
  return plain(out);
}

Error explain(Error error, const Reference& reference, const HubSettings& settings) {
  if (error.code != Code::unauthorized && error.code != Code::forbidden) return error;
  error.message += settings.hf_token.empty()
                       ? "; if it is private or gated, accept its terms on its page and set HF_TOKEN"
                       : fmt::format("; if it is gated, its terms must be accepted first at {}/{}",
                                     settings.hf_endpoint, reference.repository);
  return error;
}

}  // namespace

Result<RepositoryListing> read_hugging_face(std::string_view text) {
  const Json json = TRY(parse_json(text, {.depth = 64, .members = 1024, .elements = kMostFiles}));
  const Json& siblings = member(json, "siblings");
  if (!siblings.is_array()) return Error{Code::corrupt, "the hub's answer lists no files"};
  RepositoryListing out{.version = parse_git_sha1(text_of(json, "sha")).value_or(""), .licence = licence_of(json)};
  for (const Json& sibling : siblings) {
    Listed file{.name = text_of(sibling, "rfilename"), .size = count_of(sibling, "size")};
    const Json& lfs = member(sibling, "lfs");
    if (lfs.is_object()) {
      for (const char* name : {"sha256", "oid"})
        if (file.sha256.empty()) file.sha256 = parse_sha256(text_of(lfs, name)).value_or("");
      if (const auto size = count_of(lfs, "size")) file.size = size;
    } else {
      file.git_sha1 = parse_git_sha1(text_of(sibling, "blobId")).value_or("");
    }
    out.files.push_back(std::move(file));
  }
  return out;
}

Result<Listing> list_hugging_face(Courier& courier, const HubSettings& settings, const Reference& reference,
                                  const Poll& poll) {
  const std::string what = reference.text();
  const net::Headers who = bearer(settings.hf_endpoint, settings.hf_token);
  const std::string revision = percent_encode(reference.revision);
  auto answer = courier.ask(what,
                            {.url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", settings.hf_endpoint,
                                                reference.repository, revision),
                             .headers = who},
                            {.headers = {{"accept", "application/json"}}}, poll);
  if (!answer) return explain(std::move(answer).error(), reference, settings);
  auto repository = read_hugging_face(answer->body);
  if (!repository) return Error{repository.error().code, fmt::format("{}: {}", what, repository.error().message)};
  Listing listing{.endpoint = settings.hf_endpoint, .version = repository->version, .licence = repository->licence};
  const std::string at = repository->version.empty() ? revision : repository->version;
  for (Listed& file : TRY(choose_files(what, std::move(repository->files), reference.file)))
    listing.files.push_back({.name = file.name,
                             .address = {.url = fmt::format("{}/{}/resolve/{}/{}", settings.hf_endpoint,
                                                            reference.repository, at, percent_encode(file.name, true)),
                                         .headers = who},
                             .size = file.size,
                             .sha256 = file.sha256,
                             .git_sha1 = file.git_sha1,
                             .linked = true});
  return listing;
}

}  // namespace ashlar::store
