// What strangers tell the model store: hubs' listings, manifests, journals, S3's
// XML, redirects, ranges, names; and the environment of proxies. The first byte
// chooses which.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/json_full.h"
#include "net/http_text.h"
#include "net/proxy.h"
#include "store/digest.h"
#include "store/hub.h"
#include "store/manifest.h"
#include "store/names.h"
#include "store/part_file.h"
#include "store/reference.h"
#include "store/s3.h"
#include "store/wire.h"

namespace {

using namespace ashlar;
using namespace ashlar::store;

void check_name(const std::string& name) {
  CHECK(!name.empty() && name.front() != '/' && ("/" + name + "/").find("/../") == name.npos &&
            name.find('\0') == name.npos,
        "a name that leaves its folder was let through");
}

void read_repository(const Result<RepositoryListing>& listing) {
  if (!listing) {
    CHECK(!listing.error().message.empty(), "an error says something");
    return;
  }
  for (const std::string file : {"", "Q4_K_M", "model.gguf"}) {
    const auto chosen = choose_files("hf:a/b", listing->files, file);
    if (!chosen) continue;
    CHECK(!chosen->empty(), "a choice is of something");
    for (const Listed& each : *chosen) {
      check_name(each.name);
      CHECK(!is_refused(each.name), "a pickle was chosen");
      CHECK(each.sha256.empty() || each.sha256.size() == 64, "a sha256 has 64 digits");
    }
  }
}

void read_and_write_manifest(std::string_view text) {
  const auto manifest = read_manifest(text);
  if (!manifest) return;
  for (const StoredFile& file : manifest->files) check_name(file.name);
  (void)manifest->served();
  CHECK(!names_of(*manifest).full.empty(), "a model has a name");
  const std::string written = dump_json(manifest_json(*manifest));
  const auto again = read_manifest(written);
  CHECK(again && dump_json(manifest_json(*again)) == written, "a manifest reads back as it was");
}

void read_and_write_journal(std::string_view text) {
  const auto journal = read_journal(text);
  if (!journal) return;
  std::uint64_t at = 0;
  for (const Piece& piece : journal->pieces) {
    CHECK(piece.begin == at && piece.end > at && piece.have <= piece.end - piece.begin, "pieces tile the file");
    at = piece.end;
  }
  CHECK(at == journal->size && read_journal(write_journal(*journal)), "a journal reads back");
}

void read_reference(std::string_view text) {
  const auto reference = parse_reference(text);
  if (!reference) return;
  const std::string written = reference->text();
  const auto again = parse_reference(written);
  CHECK(again && again->text() == written, "a reference reads back as it was");
  (void)reference->short_name();
}

void follow(std::string_view location) {
  const Address from{.url = "https://hub.example/a/b?c=d", .headers = {{"authorization", "Bearer secret"}}};
  const auto to = redirected(from, 302, {{"location", std::string(location)}});
  if (!to) return;
  CHECK(origin_of(to->url)->starts_with("https://"), "from https to https only");
  CHECK(to->headers.empty() || *origin_of(to->url) == "https://hub.example", "credentials stay with their server");
}

// A proxy's address, then after a newline who needs none, then a server.
void ask_proxy(std::string_view text) {
  const std::size_t first = text.find('\n'), second = text.find('\n', first == text.npos ? first : first + 1);
  if (second == text.npos) return;
  const auto proxy = net::parse_proxy(text.substr(0, first), "p");
  CHECK(!proxy || (proxy->port > 0 && net::parse_url(proxy->shown())), "a proxy has an address");
  const auto url = net::parse_url(text.substr(second + 1));
  if (!url) return;
  const std::string none(text.substr(first + 1, second - first - 1));
  const auto found = net::ProxyRules({.http = std::string(text.substr(0, first)), .none = none}).find(*url);
  CHECK(!found || !*found || !(url->is_this_machine() || net::is_listed(none, *url)), "it is asked for others only");
  CHECK(net::is_listed(none + ",*", *url), "a star is everybody");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 10) {
    case 0:
      read_repository(read_hugging_face(text));
      break;
    case 1:
      read_repository(read_model_scope(text));
      break;
    case 2:
      read_repository(read_ollama(text));
      break;
    case 3:
      if (const auto page = read_s3_page(text))
        for (const auto& object : page->objects) CHECK(!object.key.empty(), "an object has a key");
      break;
    case 4:
      read_and_write_manifest(text);
      break;
    case 5:
      read_and_write_journal(text);
      break;
    case 6:
      read_reference(text);
      break;
    case 7:
      follow(text);
      break;
    case 9:
      ask_proxy(text);
      break;
    default:
      (void)parse_content_range(text);
      (void)net::parse_retry_after(text, std::chrono::system_clock::from_time_t(0));
      (void)base64_decode(text);
      if (check_file_name(text)) check_name(std::string(text));
      (void)check_first_bytes("a.gguf", text);
  }
  return 0;
}
