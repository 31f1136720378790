#include "store/courier.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "net/http_text.h"
#include "store/names.h"
#include "store/wire.h"
#include "store/xml.h"

namespace ashlar::store {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kPollEvery{100};
constexpr milliseconds kAskTime{120'000};
constexpr std::string_view kUserAgent = "ashlar/" ASHLAR_VERSION;

std::optional<milliseconds> asked_wait(const net::Headers& headers) {
  return net::parse_retry_after(net::find_header(headers, "retry-after"), std::chrono::system_clock::now());
}

std::string shown_host(const std::string& url) { return origin_of(url).value_or("the server"); }

// Where Amazon's S3 says that a bucket is, when it is asked in another region; else "".
std::string other_region(const net::Headers& headers) {
  const auto region = net::find_header(headers, "x-amz-bucket-region");
  return region.empty() ? "" : fmt::format("the bucket is in the region '{}': set AWS_REGION to it", plain(region));
}

// What a server says of a refusal: in its header, or in S3's XML.
std::string said_of(int status, const net::Headers& headers, std::string_view body) {
  std::string said = plain(net::find_header(headers, "x-error-message"));
  if (said.empty() && status == 400) said = other_region(headers);
  constexpr std::size_t kMost = 64 << 10;
  if (said.empty() && body.starts_with('<') && body.size() <= kMost)
    if (const auto error = parse_xml(body); error && error->name == "Error")
      said = plain(fmt::format("{}: {}", error->text_of("Code"), error->text_of("Message")));
  return said.empty() ? said : " (" + said + ")";
}

}  // namespace

Status wait_polling(milliseconds time, const Poll& poll) {
  const auto until = Clock::now() + time;
  while (true) {
    TRY(poll());
    const auto left = until - Clock::now();
    if (left <= Clock::duration::zero()) return {};
    std::this_thread::sleep_for(std::min<Clock::duration>(left, kPollEvery));
  }
}

std::optional<milliseconds> Patience::after_failure(std::optional<milliseconds> asked) {
  if (asked && *asked > options_.longest_wait) return std::nullopt;
  if (++failures_ > options_.retries) return std::nullopt;
  const milliseconds ours = std::min(options_.longest_backoff, options_.backoff * (1 << std::min(failures_ - 1, 16)));
  return std::max(ours, asked.value_or(milliseconds(0)));
}

Result<Address> redirected(const Address& from, int status, const net::Headers& headers) {
  CHECK(is_redirect(status), "only a redirect leads elsewhere");
  if (const std::string why = other_region(headers); !why.empty() && net::find_header(headers, "location").empty())
    return Error{Code::invalid, fmt::format("{} says that {}", shown_host(from.url), why)};
  Address to{.url = TRY(redirect_target(from.url, net::find_header(headers, "location")))};
  if (TRY(origin_of(to.url)) == TRY(origin_of(from.url))) {
    to.headers = from.headers;
    to.signer = from.signer;
  }
  return to;
}

Error refused_by(const std::string& what, const std::string& url, int status, const net::Headers& headers,
                 std::string_view body) {
  const std::string host = shown_host(url), said = said_of(status, headers, body);
  if (status == 401)
    return Error{Code::unauthorized, fmt::format("{}: {} wants a token, or another one{}", what, host, said)};
  if (status == 403) return Error{Code::forbidden, fmt::format("{}: {} forbids it{}", what, host, said)};
  if (status == 404 || status == 410)
    return Error{Code::not_found, fmt::format("{}: {} has no such thing{}", what, host, said)};
  if (status == 429) {
    const auto wait = asked_wait(headers);
    return Error{Code::exhausted,
                 fmt::format("{}: {} says that we ask too often{}", what, host,
                             wait ? fmt::format("; try again in {} s", (wait->count() + 999) / 1000) : "")};
  }
  return Error{status >= 500 ? Code::unavailable : Code::invalid,
               fmt::format("{}: {} answers {} {}{}", what, host, status, net::reason(status), said)};
}

Result<std::unique_ptr<Courier>> Courier::create(CourierOptions options) {
  std::unique_ptr<net::HttpClient> client;
  if (!options.offline)
    client = TRY(net::HttpClient::create({.connect_timeout = options.connect_timeout,
                                          .response_timeout = options.silence,
                                          .max_body = {std::uint64_t{1} << 62},
                                          .tls_ca = options.tls_ca,
                                          .proxies = options.proxies}));
  return std::unique_ptr<Courier>(new Courier(std::move(options), std::move(client)));
}

Status Courier::check_online(const std::string& what) const {
  if (client_) return {};
  return Error{Code::unavailable,
               fmt::format("{}: nothing is fetched while offline (--offline or ASHLAR_OFFLINE is set)", what)};
}

std::unique_ptr<net::Call> Courier::send(const Address& address, net::ClientRequest request,
                                         net::ClientCallbacks callbacks) {
  CHECK(client_ != nullptr, "nothing is sent while offline");
  request.url = address.url;
  request.headers.emplace_back("user-agent", kUserAgent);
  request.headers.emplace_back("accept-encoding", "identity");
  request.headers.insert(request.headers.end(), address.headers.begin(), address.headers.end());
  if (address.signer) address.signer->sign(request);
  return client_->send(std::move(request), std::move(callbacks));
}

Result<Document> Courier::ask_once(const Address& address, const Question& question, const Poll& poll) {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Status> ended;
  Document document;
  const auto end = [&](Status status) {
    const std::lock_guard lock(mutex);
    if (!ended) ended = std::move(status);
    changed.notify_one();
  };
  const auto call = send(
      address, {.method = question.method, .headers = question.headers, .body = question.body, .timeout = kAskTime},
      {.on_head =
           [&](int status, const net::Headers& headers) {
             document.status = status;
             document.headers = headers;
           },
       .on_data =
           [&](std::string_view piece) {
             if (document.body.size() + piece.size() <= question.limit)
               document.body.append(piece);
             else
               end(Error{Code::too_large, fmt::format("the answer of {} is larger than {} bytes",
                                                      shown_host(address.url), question.limit)});
           },
       .on_done = end});
  std::unique_lock lock(mutex);
  while (!changed.wait_for(lock, kPollEvery, [&] { return ended.has_value(); })) {
    lock.unlock();
    TRY(poll());
    lock.lock();
  }
  TRY(std::move(*ended));
  return document;
}

Result<Document> Courier::ask(const std::string& what, Address address, const Question& question, const Poll& poll) {
  TRY(check_online(what));
  const Address first = address;
  Patience patience(options_);
  for (int hops = 0, unreached = 0;;) {
    auto document = ask_once(address, question, poll);
    std::optional<milliseconds> asked;
    Error error;
    if (!document) {
      error = document.error();
      if (!is_transient(error)) return Error{error.code, fmt::format("{}: {}", what, error.message)};
      error.message = fmt::format("{}: {}", what, error.message);
      if (error.code == Code::unavailable && ++unreached > kMostUnreached) return error;
    } else if (is_redirect(document->status)) {
      if (++hops > kMostRedirects)
        return Error{Code::corrupt, fmt::format("{}: more than {} redirects", what, kMostRedirects)};
      address = TRY(redirected(address, document->status, document->headers));
      continue;
    } else if (document->status >= 200 && document->status < 300) {
      return std::move(*document);
    } else {
      error = refused_by(what, address.url, document->status, document->headers, document->body);
      if (document->status == 403 && address.signer)
        error.message += "; asked with the key of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
      if (!is_transient(document->status)) return error;
      asked = asked_wait(document->headers);
    }
    const auto wait = patience.after_failure(asked);
    if (!wait) return error;
    TRY(wait_polling(*wait, poll));
    address = first;
    hops = 0;
  }
}

}  // namespace ashlar::store
