#include "store/wire.h"

#include <fmt/format.h>

#include <algorithm>

#include "net/http_text.h"
#include "net/url.h"
#include "store/names.h"

namespace ashlar::store {
namespace {

std::string_view strong_etag(const net::Headers& headers) {
  const auto etag = net::find_header(headers, "etag");
  return etag.size() >= 2 && etag.front() == '"' && etag.back() == '"' ? etag : std::string_view();
}

Error bad_redirect(Code code, std::string_view from, std::string_view why) {
  return Error{code, fmt::format("{} redirects {}", plain(without_query(from)), why)};
}

}  // namespace

std::optional<ContentRange> parse_content_range(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  if (!net::equals_ignoring_case(text.substr(0, kUnit.size()), kUnit)) return std::nullopt;
  text.remove_prefix(kUnit.size());
  const std::size_t slash = text.find('/');
  if (slash == text.npos) return std::nullopt;
  ContentRange range;
  if (const auto total = text.substr(slash + 1); total != "*") {
    range.total = net::parse_decimal(total);
    if (!range.total) return std::nullopt;
  }
  const auto span = text.substr(0, slash);
  if (span == "*") {
    range.unsatisfied = true;
    return range;
  }
  const std::size_t dash = span.find('-');
  if (dash == span.npos) return std::nullopt;
  const auto first = net::parse_decimal(span.substr(0, dash)), last = net::parse_decimal(span.substr(dash + 1));
  if (!first || !last || *first > *last || (range.total && *last >= *range.total)) return std::nullopt;
  range.first = *first;
  range.last = *last;
  return range;
}

std::string validator_of(const net::Headers& headers) {
  const auto etag = strong_etag(headers);
  return std::string(etag.empty() ? net::find_header(headers, "last-modified") : etag);
}

bool is_same_state(std::string_view validator, const net::Headers& headers) {
  const auto now = validator.starts_with('"') ? strong_etag(headers) : net::find_header(headers, "last-modified");
  return validator.empty() || now.empty() || now == validator;
}

bool is_transient(int status) {
  constexpr int kStatuses[] = {408, 425, 429, 500, 502, 503, 504};
  return std::ranges::find(kStatuses, status) != std::end(kStatuses) || (status >= 520 && status <= 527);
}

bool is_transient(const Error& error) {
  return error.code == Code::unavailable || error.code == Code::deadline || error.code == Code::corrupt;
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

std::string percent_encode(std::string_view text, bool keep_slash) {
  std::string out;
  for (const char c : text) {
    const bool plain_one = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                           c == '.' || c == '_' || c == '~' || (keep_slash && c == '/');
    if (plain_one)
      out.push_back(c);
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Result<std::string> origin_of(std::string_view url) {
  const auto parsed = net::parse_url(url);
  if (!parsed) {
    const auto shown = net::parse_url(without_query(url));
    return shown ? Error{Code::invalid, fmt::format("'{}' has a query that cannot be sent", plain(without_query(url)))}
                 : shown.error();
  }
  return fmt::format("{}://{}", parsed->tls ? "https" : "http", parsed->authority());
}

std::string_view without_query(std::string_view url) { return url.substr(0, url.find_first_of("?#")); }

Result<std::string> redirect_target(std::string_view url, std::string_view location) {
  const std::string origin = TRY(origin_of(url));
  if (location.empty()) return bad_redirect(Code::corrupt, url, "without saying where to");
  std::string target;
  if (location.find("://") < location.find_first_of("/?#")) {
    target = location;
  } else if (location.starts_with("//")) {
    target = fmt::format("{}{}", origin.substr(0, origin.find(':') + 1), location);
  } else if (location.starts_with('/')) {
    target = origin + std::string(location);
  } else {
    const auto base = without_query(url);
    const std::size_t slash = base.rfind('/');
    target = slash < origin.size() ? fmt::format("{}/{}", origin, location)
                                   : fmt::format("{}{}", base.substr(0, slash + 1), location);
  }
  if (!net::parse_url(target)) return bad_redirect(Code::corrupt, url, "to an address that cannot be used");
  if (origin.starts_with("https:") && !net::lower(target.substr(0, 8)).starts_with("https://"))
    return bad_redirect(Code::forbidden, url, "from https to plain http, which is not followed");
  return target;
}

}  // namespace ashlar::store
