#include "store/s3.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <utility>

#include "base/utf8.h"
#include "net/http_text.h"
#include "net/url.h"
#include "store/digest.h"
#include "store/wire.h"
#include "store/xml.h"

namespace ashlar::store {
namespace {

class Signer final : public RequestSigner {
 public:
  explicit Signer(S3Keys keys) : keys_(std::move(keys)) {}
  void sign(net::ClientRequest& request) const override { sign_s3(request, keys_, std::chrono::system_clock::now()); }

 private:
  const S3Keys keys_;
};

// Fields that a proxy may change on the way are left out.
bool is_signed(std::string_view name) {
  return name == "date" || name == "range" || name == "content-type" || name == "content-md5" ||
         name.starts_with("x-amz-");
}

// "a=1&b" gives "a=1&b=", sorted.
std::string canonical_query(std::string_view query) {
  std::vector<std::string> parts;
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const auto part = query.substr(0, end);
    if (!part.empty()) parts.push_back(std::string(part) + (part.find('=') == part.npos ? "=" : ""));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  std::ranges::sort(parts);
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : "&") + part;
  return out;
}

}  // namespace

// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
void sign_s3(net::ClientRequest& request, const S3Keys& keys, std::chrono::system_clock::time_point now) {
  const auto url = net::parse_url(request.url);
  if (!url) return;  // it will not be sent
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  const std::string stamp(text, std::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &parts));
  const std::string day = stamp.substr(0, 8), payload = to_hex(sha256(request.body));
  request.headers.emplace_back("x-amz-content-sha256", payload);
  request.headers.emplace_back("x-amz-date", stamp);
  if (!keys.session.empty()) request.headers.emplace_back("x-amz-security-token", keys.session);

  std::map<std::string, std::string> fields{{"host", url->authority()}};
  for (const auto& [name, value] : request.headers)
    if (const std::string lower = net::lower(name); is_signed(lower)) fields[lower] = value;
  std::string field_lines, names;
  for (const auto& [name, value] : fields) {
    field_lines += fmt::format("{}:{}\n", name, value);
    names += (names.empty() ? "" : ";") + name;
  }
  const std::size_t mark = url->target.find('?');
  std::string path = url->target.substr(0, mark);
  if (keys.service != "s3") path = percent_encode(path, true);
  const std::string query = mark == std::string::npos ? "" : url->target.substr(mark + 1);
  const std::string canonical =
      fmt::format("{}\n{}\n{}\n{}\n{}\n{}", request.method, path, canonical_query(query), field_lines, names, payload);
  const std::string scope = fmt::format("{}/{}/{}/aws4_request", day, keys.region, keys.service);
  const std::string to_sign = fmt::format("AWS4-HMAC-SHA256\n{}\n{}\n{}", stamp, scope, to_hex(sha256(canonical)));
  std::string key = "AWS4" + keys.secret;
  for (const std::string_view part : {std::string_view(day), std::string_view(keys.region),
                                      std::string_view(keys.service), std::string_view("aws4_request")})
    key = hmac_sha256(key, part);
  request.headers.emplace_back(
      "authorization", fmt::format("AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={},Signature={}", keys.id, scope,
                                   names, to_hex(hmac_sha256(key, to_sign))));
}

S3Bucket::S3Bucket(const HubSettings& settings, std::string bucket) : endpoint_(settings.s3_endpoint) {
  // Where a bucket's name is part of the host, a dot in it would break the certificate.
  if (!endpoint_.empty()) {
    base_ = fmt::format("{}/{}", endpoint_, bucket);
  } else if (bucket.find('.') != std::string::npos) {
    endpoint_ = fmt::format("https://s3.{}.amazonaws.com", settings.s3_region);
    base_ = fmt::format("{}/{}", endpoint_, bucket);
  } else {
    base_ = endpoint_ = fmt::format("https://{}.s3.{}.amazonaws.com", bucket, settings.s3_region);
  }
  if (!settings.s3_key_id.empty() && !settings.s3_secret.empty())
    signer_ = std::make_shared<Signer>(S3Keys{.id = settings.s3_key_id,
                                              .secret = settings.s3_secret,
                                              .session = settings.s3_session,
                                              .region = settings.s3_region});
}

Address S3Bucket::address(const std::string& key, const std::string& query) const {
  return {.url = fmt::format("{}/{}{}{}", base_, percent_encode(key, true), query.empty() ? "" : "?", query),
          .signer = signer_};
}

Result<S3Page> read_s3_page(std::string_view text) {
  const XmlElement root = TRY(parse_xml(text));
  if (root.name != "ListBucketResult") return Error{Code::corrupt, "the object store's answer is no list of objects"};
  S3Page page;
  for (const XmlElement& each : root.children) {
    if (each.name != "Contents") continue;
    const auto size = net::parse_decimal(each.text_of("Size"));
    std::string key = each.text_of("Key");
    if (!size || key.empty() || !utf8::is_valid(key))
      return Error{Code::corrupt, "the object store lists an object without key or size"};
    page.objects.push_back({.key = std::move(key), .size = *size});
  }
  if (root.text_of("IsTruncated") == "true") {
    page.next = root.text_of("NextContinuationToken");
    if (page.next.empty())
      return Error{Code::corrupt, "the object store's list breaks off without saying where it goes on"};
  }
  return page;
}

}  // namespace ashlar::store
