// HTTP/2 (RFC 9113) on one of the client's connections: nghttp2 reads and writes the frames, this file turns tasks into
// streams and bounds what a server can make us hold.
#include <fmt/format.h>
#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <new>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "net/client_protocol.h"
#include "net/http_text.h"

namespace ashlar::net {
namespace {

using Streams = std::unordered_map<std::int32_t, struct Answering>;

constexpr std::uint32_t kMostStreams = 256;
constexpr std::int32_t kStreamWindow = 1 << 20;
constexpr std::int32_t kConnectionWindow = 16 << 20;
constexpr int kMostResets = 500;  // of ours on a connection, before servers take them for an attack (CVE-2023-44487)
constexpr int kMostRepeats = 4;   // of what connections took with them unseen
constexpr std::int64_t kMostIdleBytes = 256 << 10;  // that answer nothing

// One stream.
struct Answering {
  std::shared_ptr<ClientTask> task;
  std::size_t sent = 0;          // of the request's body
  std::size_t header_bytes = 0;  // of the header, or of the trailers
  std::uint64_t received = 0;    // of the answer's body
  int status = 0;
  Headers headers;
  bool first = false;                   // the connection was made for it
  int unsent = 0;                       // nghttp2's reason, where it was not asked for after all
  bool headed = false;                  // the head is told
  std::optional<std::uint32_t> closed;  // by nghttp2 while it wrote: told at the next deadline, when nobody is asking
  TimePoint quiet_until = kNever;
};

class ClientHttp2 final : public ClientProtocol {
 public:
  explicit ClientHttp2(ClientHome& home);
  ~ClientHttp2() override { nghttp2_session_del(session_); }

  int room() const override;
  void serve(std::shared_ptr<ClientTask> task) override;
  void fill(std::size_t target) override;
  void cancel(const ClientTask& task) override;
  void receive(std::string_view bytes) override;
  void receive_end() override;
  TimePoint deadline() const override;
  void expire(TimePoint now) override;
  void end(const Error& why) override;

 private:
  static ClientHttp2& self(void* user) { return *static_cast<ClientHttp2*>(user); }
  static const nghttp2_session_callbacks* callbacks();

  int on_header(const nghttp2_frame& frame, std::string_view name, std::string_view value);
  int on_frame(const nghttp2_frame& frame);
  int on_data(std::int32_t id, std::string_view bytes);
  int on_not_sent(const nghttp2_frame& frame, int why);
  int on_stream_close(std::int32_t id, std::uint32_t code);
  int on_error(std::string_view why);
  ssize_t read_body(std::int32_t id, std::uint8_t* out, std::size_t size, std::uint32_t* flags);

  Answering* find(std::int32_t id);
  void head_arrived(std::int32_t id, Answering& stream);
  std::shared_ptr<ClientTask> take(std::int32_t id);
  void finish(std::int32_t id);
  void fail(std::int32_t id, Error why);
  void reset(std::int32_t id);
  void heard(Answering& stream);
  void watch(TimePoint until) { check_at_ = std::min(check_at_, until); }
  void closed(std::int32_t id, std::uint32_t code);
  void tell_closed();
  void close_if_over();

  ClientHome& home_;
  nghttp2_session* session_ = nullptr;
  Streams streams_;
  const TimePoint settle_until_;
  bool settled_ = false;         // the server's settings have come
  bool leaving_ = false;         // it gets no more streams
  bool lost_ = false;            // it is gone, without a word
  bool wants_http1_ = false;     // it said so as it left
  bool answered_ = false;        // some stream, in whatever way
  bool filling_ = false;         // nghttp2 writes
  TimePoint check_at_ = kNever;  // not later than any stream's deadline
  TimePoint idle_until_ = kNever;
  TimePoint heard_at_ = Clock::now();
  TimePoint alive_until_ = kNever;  // by then something must have come
  std::int64_t idle_bytes_ = 0;     // since the last that answered something
  int resets_ = 0;
  std::string trouble_;  // what nghttp2 last complained of
};

const nghttp2_session_callbacks* ClientHttp2::callbacks() {
  static const nghttp2_session_callbacks* const made = [] {
    nghttp2_session_callbacks* all = nullptr;
    nghttp2_session_callbacks_new(&all);
    nghttp2_session_callbacks_set_on_header_callback(
        all, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
          return self(user).on_header(*frame, {reinterpret_cast<const char*>(name), name_size},
                                      {reinterpret_cast<const char*>(value), value_size});
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        all, [](nghttp2_session*, const nghttp2_frame* frame, void* user) { return self(user).on_frame(*frame); });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        all, [](nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data, std::size_t size,
                void* user) { return self(user).on_data(id, {reinterpret_cast<const char*>(data), size}); });
    nghttp2_session_callbacks_set_on_frame_not_send_callback(
        all, [](nghttp2_session*, const nghttp2_frame* frame, int why, void* user) {
          return self(user).on_not_sent(*frame, why);
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        all, [](nghttp2_session*, std::int32_t id, std::uint32_t code, void* user) {
          return self(user).on_stream_close(id, code);
        });
    nghttp2_session_callbacks_set_error_callback2(all, [](nghttp2_session*, int, const char* why, std::size_t size,
                                                          void* user) { return self(user).on_error({why, size}); });
    return all;
  }();
  return made;
}

ClientHttp2::ClientHttp2(ClientHome& home) : home_(home), settle_until_(Clock::now() + home.options().connect_timeout) {
  // nghttp2's own guards stay as they are: at most 32 settings a frame, 8
  // continuations, 1000 unsent acknowledgements.
  nghttp2_option* options = nullptr;
  nghttp2_option_new(&options);
  nghttp2_option_set_no_closed_streams(options, 1);
  nghttp2_option_set_max_reserved_remote_streams(options, 0);  // promises that come before it knows our settings
  if (nghttp2_session_client_new2(&session_, callbacks(), this, options) != 0) throw std::bad_alloc();
  nghttp2_option_del(options);
  const auto most_header =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(home.options().max_header.count, UINT32_MAX));
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
                                             {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, most_header}};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

Answering* ClientHttp2::find(std::int32_t id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : &found->second;
}

// Until it has said how many it bears, a server gets one.
int ClientHttp2::room() const {
  if (leaving_ || lost_ || nghttp2_session_check_request_allowed(session_) == 0) return -1;
  const std::uint32_t most = settled_ ? std::min(kMostStreams, nghttp2_session_get_remote_settings(
                                                                   session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
                                      : 1;
  return std::max(0, static_cast<int>(most) - static_cast<int>(streams_.size()));
}

// --- a request leaves

void ClientHttp2::serve(std::shared_ptr<ClientTask> task) {
  const ClientRequest& request = task->request;
  Headers all{{":method", request.method},
              {":scheme", task->url.tls ? "https" : "http"},
              {":authority", task->url.authority()},
              {":path", task->url.target}};
  for (const auto& [name, value] : request.headers)
    if (may_send(name) && !equals_ignoring_case(name, "host")) all.emplace_back(lower(name), trim(safe_value(value)));
  const bool has_body =
      !request.body.empty() || request.method == "POST" || request.method == "PUT" || request.method == "PATCH";
  if (has_body) all.emplace_back("content-length", fmt::format("{}", request.body.size()));
  std::vector<nghttp2_nv> pairs;
  pairs.reserve(all.size());
  for (auto& [name, value] : all)
    pairs.push_back({reinterpret_cast<std::uint8_t*>(name.data()), reinterpret_cast<std::uint8_t*>(value.data()),
                     name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  nghttp2_data_provider provider{};
  provider.read_callback = [](nghttp2_session*, std::int32_t id, std::uint8_t* out, std::size_t size,
                              std::uint32_t* flags, nghttp2_data_source*,
                              void* user) { return self(user).read_body(id, out, size, flags); };
  const std::int32_t id = nghttp2_submit_request(session_, nullptr, pairs.data(), pairs.size(),
                                                 request.body.empty() ? nullptr : &provider, nullptr);
  if (id < 0) throw std::bad_alloc();  // nothing else keeps a session with room from taking a request
  const TimePoint now = Clock::now();
  if (id > 1 && alive_until_ == kNever && now - heard_at_ > home_.options().http2_doubt) {
    nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
    alive_until_ = now + task->connect_timeout(home_.options());
  }
  const TimePoint until = task->until;
  Answering& stream = streams_.emplace(id, Answering{.task = std::move(task), .first = id == 1}).first->second;
  heard(stream);
  watch(std::min(until, stream.quiet_until));
}

// nghttp2 asks for the next DATA frame's content.
ssize_t ClientHttp2::read_body(std::int32_t id, std::uint8_t* out, std::size_t size, std::uint32_t* flags) {
  Answering* stream = find(id);
  if (!stream) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // it is being reset
  idle_bytes_ = std::min<std::int64_t>(idle_bytes_, 0);
  const std::string_view run = std::string_view(stream->task->request.body).substr(stream->sent, size);
  std::ranges::copy(run, out);
  stream->sent += run.size();
  if (stream->sent == stream->task->request.body.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return static_cast<ssize_t>(run.size());
}

void ClientHttp2::fill(std::size_t target) {
  filling_ = true;
  while (home_.out().size() < target) {
    const std::uint8_t* bytes = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
    if (size <= 0) break;  // what is wrong shows when it is read from next
    home_.out().append({reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size)});
  }
  filling_ = false;
}

// --- an answer arrives

void ClientHttp2::receive(std::string_view bytes) {
  if (!settled_ && bytes.starts_with("HTTP/1"))
    return home_.close({Code::corrupt, fmt::format("{} speaks HTTP/1.1 where HTTP/2 was to be spoken.", home_.name())});
  if (!bytes.empty()) {
    heard_at_ = Clock::now();
    alive_until_ = kNever;
  }
  idle_bytes_ += std::ssize(bytes);
  const ssize_t taken =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (taken < 0)
    return home_.close(
        {Code::corrupt, fmt::format("The server broke HTTP/2: {}.",
                                    trouble_.empty() ? nghttp2_strerror(static_cast<int>(taken)) : trouble_)});
  // Such frames cost the server nothing, and us work.
  if (idle_bytes_ > kMostIdleBytes)
    return home_.close({Code::corrupt, "The server broke HTTP/2: it sends frames without end that answer nothing."});
  close_if_over();
}

// Where nghttp2 wants no more of the connection: the server's last stream has ended, or it broke the protocol.
void ClientHttp2::close_if_over() {
  fill(64 << 10);
  if (nghttp2_session_want_read(session_) || nghttp2_session_want_write(session_)) return;
  tell_closed();
  if (leaving_ && streams_.empty()) return home_.close({});
  home_.close({Code::corrupt,
               fmt::format("The server broke HTTP/2: {}.", trouble_.empty() ? "it sent what it must not" : trouble_)});
}

int ClientHttp2::on_error(std::string_view why) {
  if (why.ends_with('.')) why.remove_suffix(1);
  trouble_ = safe_value(why.substr(0, 200));
  return 0;
}

void ClientHttp2::heard(Answering& stream) {
  stream.quiet_until = Clock::now() + stream.task->response_timeout(home_.options());
}

int ClientHttp2::on_header(const nghttp2_frame& frame, std::string_view name, std::string_view value) {
  Answering* stream = find(frame.hd.stream_id);
  if (!stream) return 0;
  // Counted as the server was told to count (RFC 9113, 6.5.2); trailers are dropped, but count.
  stream->header_bytes += name.size() + value.size() + 32;
  const std::size_t most = home_.options().max_header.count;
  if (stream->header_bytes > most) {
    fail(frame.hd.stream_id,
         {Code::too_large, fmt::format("The server's answer has a header larger than {} bytes.", most)});
    return 0;
  }
  if (stream->headed) return 0;
  if (name == ":status")
    stream->status = static_cast<int>(parse_decimal(value).value_or(0));
  else if (!name.starts_with(':'))
    stream->headers.emplace_back(name, value);
  return 0;
}

int ClientHttp2::on_frame(const nghttp2_frame& frame) {
  const std::int32_t id = frame.hd.stream_id;
  Answering* stream = id > 0 ? find(id) : nullptr;
  const bool ends = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  switch (frame.hd.type) {
    case NGHTTP2_HEADERS:
      if (!stream) return 0;
      answered_ = true;
      heard(*stream);
      if (!stream->headed) head_arrived(id, *stream);
      if (ends) finish(id);
      return 0;
    case NGHTTP2_DATA:
      if (!stream) return 0;
      heard(*stream);
      if (ends) finish(id);
      return 0;
    case NGHTTP2_SETTINGS:
      if ((frame.hd.flags & NGHTTP2_FLAG_ACK) != 0) return 0;
      settled_ = true;
      home_.offer();
      return 0;
    case NGHTTP2_GOAWAY:
      // Streams beyond the last that it serves are closed by nghttp2 as refused.
      leaving_ = true;
      wants_http1_ = frame.goaway.error_code == NGHTTP2_HTTP_1_1_REQUIRED;
      home_.offer();
      return 0;
    default:
      return 0;
  }
}

void ClientHttp2::head_arrived(std::int32_t id, Answering& stream) {
  stream.header_bytes = 0;
  if (stream.status == 101) return fail(id, {Code::corrupt, "The server broke HTTP: it switched protocols unasked."});
  if (stream.status < 200) {  // 100 Continue, 103 Early Hints: the real one follows
    stream.headers.clear();
    return;
  }
  idle_bytes_ = std::min<std::int64_t>(idle_bytes_, 0);
  stream.headed = true;
  const auto task = stream.task;
  task->head(stream.status, std::exchange(stream.headers, {}));
}

int ClientHttp2::on_data(std::int32_t id, std::string_view bytes) {
  Answering* stream = find(id);
  if (!stream || bytes.empty()) return 0;
  idle_bytes_ = std::min<std::int64_t>(idle_bytes_, 0);
  heard(*stream);
  stream->received += bytes.size();
  const std::uint64_t most = home_.options().max_body.count;
  if (stream->received > most) {
    fail(id, {Code::too_large, fmt::format("The server's answer is larger than {} bytes.", most)});
    return 0;
  }
  const auto task = stream->task;
  task->data(bytes);
  return 0;
}

// --- the end of a stream

void ClientHttp2::reset(std::int32_t id) {
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
  if (++resets_ >= kMostResets) leaving_ = true;
  // What the server sent before it hears of that answers nothing, and is no fault of its own.
  idle_bytes_ = std::max<std::int64_t>(idle_bytes_ - kStreamWindow, -kConnectionWindow);
}

// The stream is no more: its place is free.
std::shared_ptr<ClientTask> ClientHttp2::take(std::int32_t id) {
  const auto found = streams_.find(id);
  auto task = std::move(found->second.task);
  streams_.erase(found);
  if (streams_.empty()) idle_until_ = Clock::now() + home_.options().idle_timeout;
  return task;
}

// The answer is whole.
void ClientHttp2::finish(std::int32_t id) {
  const Answering* stream = find(id);
  if (!stream) return;
  if (!stream->headed) return fail(id, {Code::corrupt, "The server broke HTTP: it ended an answer that had no head."});
  // What it did not want to read of the request is not sent.
  if (stream->sent < stream->task->request.body.size()) reset(id);
  const auto task = take(id);
  home_.offer();
  task->done({});
}

void ClientHttp2::fail(std::int32_t id, Error why) {
  reset(id);
  const auto task = take(id);
  home_.offer();
  task->done(std::unexpected(std::move(why)));
}

int ClientHttp2::on_not_sent(const nghttp2_frame& frame, int why) {
  if (Answering* stream = find(frame.hd.stream_id); stream && frame.hd.type == NGHTTP2_HEADERS) stream->unsent = why;
  return 0;
}

// Before its answer was whole; else it is not among the streams any more.
int ClientHttp2::on_stream_close(std::int32_t id, std::uint32_t code) {
  Answering* stream = find(id);
  if (!stream) return 0;
  if (filling_) {
    stream->closed = code;
    watch(TimePoint::min());
  } else {
    closed(id, code);
  }
  return 0;
}

void ClientHttp2::closed(std::int32_t id, std::uint32_t code) {
  answered_ = true;
  const Answering* stream = find(id);
  const bool begun = stream->headed, refused = code == NGHTTP2_REFUSED_STREAM || stream->unsent != 0;
  const bool too_large = stream->unsent == NGHTTP2_ERR_FRAME_SIZE_ERROR;
  auto task = take(id);
  home_.offer();
  if (too_large)
    return task->done(std::unexpected(Error{Code::invalid, "The request's header is too large to be sent."}));
  if (!begun && (code == NGHTTP2_HTTP_1_1_REQUIRED || (refused && wants_http1_)))
    return home_.ask_in_http1(std::move(task));
  // Such a request was not looked at (RFC 9113, 8.7), so that any may be made again. A server that leaves is another
  // matter than one that will not take it.
  if (refused && !begun && task->repeats < (leaving_ ? kMostRepeats : 1)) return home_.ask_again(std::move(task));
  const std::string_view named = nghttp2_http2_strerror(code);
  if (refused)
    task->done(std::unexpected(Error{Code::exhausted, fmt::format("{} refuses the request.", home_.name())}));
  else
    task->done(std::unexpected(
        Error{Code::corrupt, begun ? fmt::format("The server reset the stream in the midst of its answer: {}.", named)
                                   : fmt::format("The server reset the stream without an answer: {}.", named)}));
}

void ClientHttp2::tell_closed() {
  std::vector<std::pair<std::int32_t, std::uint32_t>> all;
  for (const auto& [id, stream] : streams_)
    if (stream.closed) all.emplace_back(id, *stream.closed);
  for (const auto& [id, code] : all)
    if (find(id) != nullptr) closed(id, code);
}

void ClientHttp2::cancel(const ClientTask& task) {
  const auto found = std::ranges::find_if(streams_, [&](const auto& each) { return each.second.task.get() == &task; });
  if (found == streams_.end()) return;
  reset(found->first);
  take(found->first);
  home_.offer();
  close_if_over();
}

// --- the end of the connection

void ClientHttp2::receive_end() {
  lost_ = true;
  home_.close({answered_ ? Code::corrupt : Code::exhausted, "The server closed the connection."});
}

void ClientHttp2::end(const Error& why) {
  leaving_ = true;
  for (auto& [id, stream] : std::exchange(streams_, {})) {
    // A kept connection may have died while the request was on its way; who never answered anybody has hardly heard.
    const bool again = lost_ && !stream.headed && stream.task->is_repeatable();
    const int most = !answered_ ? kMostRepeats : stream.first ? 0 : 1;
    if (again && stream.task->repeats < most)
      home_.ask_again(std::move(stream.task));
    else if (again && !answered_)
      stream.task->done(std::unexpected(
          Error{Code::exhausted, fmt::format("{} closes connections before it answers anything.", home_.name())}));
    else if (lost_ && why.code != Code::unavailable)
      stream.task->done(std::unexpected(
          Error{Code::corrupt, stream.headed ? "The server closed the connection in the midst of its answer."
                                             : "The server closed the connection without an answer."}));
    else
      stream.task->done(std::unexpected(why));
  }
}

TimePoint ClientHttp2::deadline() const {
  return std::min(
      {check_at_, alive_until_, settled_ ? kNever : settle_until_, streams_.empty() ? idle_until_ : kNever});
}

void ClientHttp2::expire(TimePoint now) {
  if (streams_.empty() && now >= idle_until_) return home_.close({});
  if (!settled_ && now >= settle_until_)
    return home_.close({Code::unavailable, fmt::format("{} did not begin to speak HTTP/2 within {} ms.", home_.name(),
                                                       home_.options().connect_timeout.count())});
  if (now >= alive_until_) {
    lost_ = true;
    return home_.close({Code::unavailable, fmt::format("The kept connection to {} is dead.", home_.name())});
  }
  if (now < check_at_) return;
  tell_closed();
  check_at_ = kNever;
  std::vector<std::pair<std::int32_t, Error>> late;
  for (const auto& [id, stream] : streams_) {
    const TimePoint until = std::min(stream.task->until, stream.quiet_until);
    if (until > now)
      watch(until);
    else if (now >= stream.task->until)
      late.emplace_back(id, Error{Code::deadline, fmt::format("{} did not finish its answer within {} ms.",
                                                              home_.name(), stream.task->request.timeout.count())});
    else
      late.emplace_back(id, Error{Code::deadline, fmt::format("{} was silent for {} ms.", home_.name(),
                                                              stream.task->response_timeout(home_.options()).count())});
  }
  for (auto& [id, why] : late)
    if (find(id) != nullptr) fail(id, std::move(why));
  close_if_over();
}

}  // namespace

std::unique_ptr<ClientProtocol> make_client_http2(ClientHome& home) { return std::make_unique<ClientHttp2>(home); }

}  // namespace ashlar::net
