#include "store/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "base/json_full.h"
#include "net/http_text.h"
#include "store/digest.h"
#include "store/fields.h"
#include "store/names.h"
#include "store/reference.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kMostFiles = 100'000;
constexpr std::uint64_t kLargest = std::uint64_t{1} << 46;

Error damaged(std::string_view why) { return Error{Code::corrupt, std::string(why)}; }

Result<StoredFile> read_file(const Json& json) {
  StoredFile file{.name = text_of(json, "name"), .checked_by = text_of(json, "checked_by")};
  TRY(check_file_name(file.name));
  TRY(check_kind(file.name));
  const auto size = count_of(json, "size");
  if (!size || *size > kLargest) return damaged("a file has no size");
  file.size = *size;
  auto digest = parse_sha256(text_of(json, "sha256"));
  if (!digest) return damaged("a file has no sha256");
  file.sha256 = *std::move(digest);
  file.git_sha1 = parse_git_sha1(text_of(json, "git_sha1")).value_or("");
  return file;
}

bool is_gguf(const StoredFile& file) { return net::lower(file.name).ends_with(".gguf"); }

std::string without_gguf(std::string name) {
  if (net::lower(name).ends_with(".gguf")) name.resize(name.size() - 5);
  return name;
}

}  // namespace

std::uint64_t Manifest::bytes() const {
  std::uint64_t sum = 0;
  for (const StoredFile& file : files) sum += file.size;
  return sum;
}

const StoredFile* Manifest::served() const {
  if (files.size() == 1) return &files.front();
  // Names are in order, so that the first part comes first; projectors and adapters are no models.
  const auto is_model = [](const StoredFile& file) {
    return is_gguf(file) && file.name.find("mmproj") == std::string::npos && !file.name.starts_with("projector") &&
           !file.name.starts_with("adapter");
  };
  const auto found = std::ranges::find_if(files, is_model);
  return found == files.end() ? nullptr : &*found;
}

Json manifest_json(const Manifest& manifest) {
  Json files = Json::array();
  for (const StoredFile& file : manifest.files) {
    Json each = {{"name", file.name}, {"size", file.size}, {"sha256", file.sha256}};
    if (!file.git_sha1.empty()) each["git_sha1"] = file.git_sha1;
    each["checked_by"] = file.checked_by;
    files.push_back(std::move(each));
  }
  return {{"format", 1},
          {"reference", manifest.reference},
          {"alias", manifest.alias},
          {"endpoint", manifest.endpoint},
          {"version", manifest.version},
          {"licence", manifest.licence},
          {"pulled_at", utc_text(manifest.pulled_at)},
          {"pulled_at_seconds", manifest.pulled_at},
          {"files", std::move(files)}};
}

Result<Manifest> read_manifest(std::string_view text) {
  const Json json = TRY(parse_json(text, {.depth = 8, .members = 64, .elements = kMostFiles}));
  if (count_of(json, "format") != 1) return damaged("it is of a format that this program does not know");
  Manifest out{.reference = text_of(json, "reference"),
               .alias = text_of(json, "alias"),
               .endpoint = text_of(json, "endpoint"),
               .version = text_of(json, "version"),
               .licence = text_of(json, "licence"),
               .pulled_at = static_cast<std::int64_t>(
                   std::min<std::uint64_t>(count_of(json, "pulled_at_seconds").value_or(0), std::uint64_t{1} << 40))};
  TRY(parse_reference(out.reference));
  const Json& files = member(json, "files");
  if (!files.is_array() || files.empty()) return damaged("it names no files");
  std::set<std::string> names;
  for (const Json& each : files) {
    out.files.push_back(TRY(read_file(each)));
    if (!names.insert(out.files.back().name).second) return damaged("it names a file twice");
  }
  std::ranges::sort(out.files, {}, &StoredFile::name);
  return out;
}

ModelNames names_of(const Manifest& manifest) {
  ModelNames names{.full = {manifest.reference}};
  if (!manifest.alias.empty()) names.full.push_back(manifest.alias);
  const auto reference = parse_reference(manifest.reference);
  if (!reference) return names;
  std::set<std::string> loose = {reference->short_name()};
  switch (reference->kind) {
    case HubKind::hugging_face:
    case HubKind::model_scope: {
      loose.insert(manifest.reference.substr(manifest.reference.find(':') + 1));
      loose.insert(reference->repository);
      if (!reference->file.empty()) {
        loose.insert(fmt::format("{}:{}", reference->short_name(), reference->file));
        loose.insert(reference->file.substr(reference->file.rfind('/') + 1));
      }
      break;
    }
    case HubKind::ollama:
      loose.insert(manifest.reference.substr(manifest.reference.find(':') + 1));
      loose.insert(reference->repository.substr(reference->repository.rfind('/') + 1));
      break;
    case HubKind::s3:
    case HubKind::web:
      break;
  }
  const StoredFile* served = manifest.served();
  if (served != nullptr && reference->kind != HubKind::ollama) {
    const std::string file = served->name.substr(served->name.rfind('/') + 1);
    loose.insert(file);
    loose.insert(without_gguf(file));
  }
  names.loose.assign(loose.begin(), loose.end());
  return names;
}

std::string utc_text(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  char text[64];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

}  // namespace ashlar::store
