// s3://BUCKET/KEY: one object, or all under KEY/ as a repository's files. HEAD
// tells size and, where the uploader left one, the sha256.
#include <fmt/format.h>

#include "net/http_text.h"
#include "store/digest.h"
#include "store/hub.h"
#include "store/names.h"
#include "store/s3.h"
#include "store/wire.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kMostObjects = 100'000;

// A checksum of parts ("...-4") is none of the whole.
std::string digest_of(const net::Headers& headers) {
  const auto raw = base64_decode(net::find_header(headers, "x-amz-checksum-sha256"));
  if (raw && raw->size() == 32 && net::find_header(headers, "x-amz-checksum-type") != "COMPOSITE") return to_hex(*raw);
  return parse_sha256(net::find_header(headers, "x-amz-meta-sha256")).value_or("");
}

Result<Wanted> ask_object(Courier& courier, const S3Bucket& bucket, const std::string& what, const std::string& key,
                          const std::string& name, const Poll& poll) {
  Address address = bucket.address(key);
  const Document head =
      TRY(courier.ask(what, address, {.method = "HEAD", .headers = {{"x-amz-checksum-mode", "ENABLED"}}}, poll));
  return Wanted{.name = name,
                .address = std::move(address),
                .size = net::parse_decimal(net::find_header(head.headers, "content-length")),
                .sha256 = digest_of(head.headers)};
}

Result<std::vector<Listed>> list_folder(Courier& courier, const S3Bucket& bucket, const std::string& what,
                                        const std::string& prefix, const Poll& poll) {
  std::vector<Listed> files;
  std::string token;
  do {
    std::string query = "list-type=2&max-keys=1000&prefix=" + percent_encode(prefix);
    if (!token.empty()) query = "continuation-token=" + percent_encode(token) + "&" + query;
    const Document answer = TRY(courier.ask(what, bucket.address("", query), {}, poll));
    auto page = read_s3_page(answer.body);
    if (!page) return Error{page.error().code, fmt::format("{}: {}", what, page.error().message)};
    for (const auto& [key, size] : page->objects) {
      // Folders are kept as empty objects with a "/" at the end by some.
      if (!key.starts_with(prefix) || key.ends_with('/')) continue;
      files.push_back({.name = key.substr(prefix.size()), .size = size, .sha256 = "", .git_sha1 = ""});
    }
    if (files.size() > kMostObjects)
      return Error{Code::too_large, fmt::format("{}: more than {} objects", what, kMostObjects)};
    if (page->next == token && !token.empty())
      return Error{Code::corrupt, fmt::format("{}: its list of objects never ends", what)};
    token = page->next;
  } while (!token.empty());
  return files;
}

}  // namespace

Result<Listing> list_s3(Courier& courier, const HubSettings& settings, const Reference& reference, const Poll& poll) {
  const std::string what = reference.text();
  const S3Bucket bucket(settings, reference.repository);
  Listing listing{.endpoint = bucket.endpoint()};
  std::string folder = reference.file;
  if (!folder.ends_with('/')) {
    const std::string name = folder.substr(folder.rfind('/') + 1);
    if (is_refused(name)) TRY(check_kind(name));
    auto object = ask_object(courier, bucket, what, folder, name, poll);
    if (object) {
      listing.files.push_back(std::move(*object));
      return listing;
    }
    if (object.error().code != Code::not_found) return object.error();
    folder += '/';
  }
  const auto files = TRY(list_folder(courier, bucket, what, folder, poll));
  if (files.empty())
    return Error{Code::not_found, fmt::format("{}: there is no such object, and no folder of that name", what)};
  for (const Listed& file : TRY(choose_files(what, files, "")))
    listing.files.push_back(TRY(ask_object(courier, bucket, fmt::format("{}: {}", what, plain(file.name)),
                                           folder + file.name, file.name, poll)));
  return listing;
}

}  // namespace ashlar::store
