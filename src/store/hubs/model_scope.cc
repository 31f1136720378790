// ModelScope: GET /api/v1/models/REPO/repo/files lists the files with their
// sha256; GET /api/v1/models/REPO/repo?FilePath= gives one. A failure may come as
// 200 with a Code of its own.
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

}  // namespace

Result<RepositoryListing> read_model_scope(std::string_view text) {
  const Json json = TRY(parse_json(text, {.depth = 64, .members = 1024, .elements = kMostFiles}));
  const Json& files = member(member(json, "Data"), "Files");
  const Json& success = member(json, "Success");
  if (!files.is_array() || (success.is_boolean() && !success.get<bool>())) {
    const std::string said = plain(text_of(json, "Message"));
    return Error{said.empty() ? Code::corrupt : Code::not_found,
                 said.empty() ? "the hub's answer lists no files" : fmt::format("the hub says: {}", said)};
  }
  RepositoryListing out;
  for (const Json& each : files) {
    if (text_of(each, "Type") == "tree") continue;
    std::string name = text_of(each, "Path");
    if (name.empty()) name = text_of(each, "Name");
    out.files.push_back({.name = std::move(name),
                         .size = count_of(each, "Size"),
                         .sha256 = parse_sha256(text_of(each, "Sha256")).value_or(""),
                         .git_sha1 = ""});
  }
  return out;
}

Result<Listing> list_model_scope(Courier& courier, const HubSettings& settings, const Reference& reference,
                                 const Poll& poll) {
  const std::string what = reference.text();
  const net::Headers who = bearer(settings.ms_endpoint, settings.ms_token);
  const std::string base = fmt::format("{}/api/v1/models/{}", settings.ms_endpoint, reference.repository);
  const std::string revision = percent_encode(reference.revision);
  const Courier::Question question{.headers = {{"accept", "application/json"}}};
  const Document answer = TRY(courier.ask(
      what, {.url = fmt::format("{}/repo/files?Revision={}&Recursive=true", base, revision), .headers = who}, question,
      poll));
  auto repository = read_model_scope(answer.body);
  if (!repository) return Error{repository.error().code, fmt::format("{}: {}", what, repository.error().message)};
  Listing listing{.endpoint = settings.ms_endpoint};
  // The model's own page tells the licence; a hub without one still has the files.
  if (const auto card = courier.ask(what, {.url = base, .headers = who}, question, poll))
    if (const auto json = parse_json(card->body)) listing.licence = plain(text_of(member(*json, "Data"), "License"));
  for (Listed& file : TRY(choose_files(what, std::move(repository->files), reference.file)))
    listing.files.push_back(
        {.name = file.name,
         .address = {.url = fmt::format("{}/repo?Revision={}&FilePath={}", base, revision, percent_encode(file.name)),
                     .headers = who},
         .size = file.size,
         .sha256 = file.sha256});
  return listing;
}

}  // namespace ashlar::store
