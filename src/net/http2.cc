// HTTP/2 (RFC 9113) on one connection: nghttp2 reads and writes the frames, this
// file turns streams into exchanges and bounds what a client can make us hold.
#include <fmt/format.h>
#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <new>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "net/http_text.h"
#include "net/protocol.h"
#include "net/traffic.h"

namespace ashlar::net {
namespace {

constexpr std::uint32_t kMostStreams = 256;
constexpr std::int32_t kStreamWindow = 256 << 10;
constexpr std::int32_t kConnectionWindow = 4 << 20;
constexpr std::size_t kMostIdleBytes = 256 << 10;             // that ask for nothing and bring nothing
constexpr double kBrokenBurst = 1000, kBrokenPerSecond = 33;  // streams that end early, as nghttp2 has it for resets
constexpr std::size_t kMostUnread = 64 << 10;  // unsent bytes at which we stop reading a client that does not
constexpr std::chrono::seconds kLinger{1};

struct Stream {
  std::int32_t id;
  std::unique_ptr<Arriving> arriving;  // null once handed over or refused
  std::string method;
  std::size_t header_bytes = 0;
  TimePoint deadline = kNever;  // of the arrival, or of a client that does not read
  std::shared_ptr<Line> line;
  Outbox pending;         // waits for the client's window
  bool begun = false;     // the status is out
  bool ended = false;     // no more will be added to pending
  bool deferred = false;  // nghttp2 waits for us to resume it
  bool input_done = false;
};

class Http2 final : public Protocol {
 public:
  explicit Http2(ProtocolHome& home);
  ~Http2() override { nghttp2_session_del(session_); }

  void receive(std::string_view bytes) override;
  void receive_end() override { failed_ = true; }
  bool wants_input() const override { return home_.out.size() < kMostUnread; }
  void answer(AnswerPart&& part) override;
  void fill(std::size_t target) override;
  void drain() override;
  void lost() override;
  TimePoint deadline() const override { return std::min(check_at_, streams_.empty() ? idle_until_ : kNever); }
  void expire(TimePoint now) override;
  Fate fate() const override;
  bool busy() const override { return !streams_.empty(); }

 private:
  static Http2& self(void* user) { return *static_cast<Http2*>(user); }
  static const nghttp2_session_callbacks* callbacks();
  Stream* find(std::int32_t id);

  int on_begin_headers(const nghttp2_frame& frame);
  int on_header(const nghttp2_frame& frame, std::string_view name, std::string_view value);
  int on_frame(const nghttp2_frame& frame);
  int on_data(std::int32_t id, std::string_view bytes);
  int on_sent(const nghttp2_frame& frame);
  int on_stream_close(std::int32_t id);
  ssize_t read_body(Stream& stream, std::uint8_t* out, std::size_t size, std::uint32_t* flags);

  void head_arrived(Stream& stream);
  void hand_over(Stream& stream);
  void refuse(Stream& stream, const Refusal& refusal);
  void submit(Stream& stream, int status, const Headers& headers, bool body_follows, std::optional<std::size_t> length);
  void add(Stream& stream, std::string&& bytes, Marks&& marks = {});
  void resume(Stream& stream);
  void reset(std::int32_t id, std::uint32_t code) { nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, code); }
  void give_up(Stream& stream, std::uint32_t code);
  void watch(Stream& stream, TimePoint until);

  ProtocolHome& home_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<std::int32_t, std::unique_ptr<Stream>> streams_;
  TimePoint check_at_ = kNever;  // not later than any stream's deadline
  TimePoint idle_until_;
  const TimePoint born_ = Clock::now();
  std::size_t idle_bytes_ = 0;  // pings, settings, unknown frames... since the last useful one
  double broken_ = 0;
  bool failed_ = false;
  Marks framed_;  // behind the frame that nghttp2 makes now
};

const nghttp2_session_callbacks* Http2::callbacks() {
  static const nghttp2_session_callbacks* const made = [] {
    nghttp2_session_callbacks* all = nullptr;
    nghttp2_session_callbacks_new(&all);
    nghttp2_session_callbacks_set_on_begin_headers_callback(
        all,
        [](nghttp2_session*, const nghttp2_frame* frame, void* user) { return self(user).on_begin_headers(*frame); });
    nghttp2_session_callbacks_set_on_header_callback(
        all, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
          return self(user).on_header(*frame, {reinterpret_cast<const char*>(name), name_size},
                                      {reinterpret_cast<const char*>(value), value_size});
        });
    nghttp2_session_callbacks_set_on_begin_headers_callback(
        all,
        [](nghttp2_session*, const nghttp2_frame* frame, void* user) { return self(user).on_begin_headers(*frame); });
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
    nghttp2_session_callbacks_set_on_frame_send_callback(
        all, [](nghttp2_session*, const nghttp2_frame* frame, void* user) { return self(user).on_sent(*frame); });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        all,
        [](nghttp2_session*, std::int32_t id, std::uint32_t, void* user) { return self(user).on_stream_close(id); });
    return all;
  }();
  return made;
}

Http2::Http2(ProtocolHome& home) : home_(home), idle_until_(Clock::now() + home.options.idle_timeout) {
  // nghttp2's own guards stay as they are: at most 32 settings a frame, 8
  // continuations, 1000 unsent acknowledgements, resets of 1000 and 33 a second.
  nghttp2_option* options = nullptr;
  nghttp2_option_new(&options);
  nghttp2_option_set_no_closed_streams(options, 1);
  if (nghttp2_session_server_new2(&session_, callbacks(), this, options) != 0) throw std::bad_alloc();
  nghttp2_option_del(options);
  const auto most_header =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(home.options.max_header.count, UINT32_MAX));
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kMostStreams},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
                                             {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, most_header},
                                             {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1}};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

Stream* Http2::find(std::int32_t id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

void Http2::receive(std::string_view bytes) {
  if (failed_) return;
  idle_bytes_ += bytes.size();
  const ssize_t taken =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  // Such frames cost the client nothing, and us work.
  if (taken >= 0 && idle_bytes_ > kMostIdleBytes)
    nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
  if (taken >= 0) return;
  log::debug("http2_failed", {{"peer", home_.peer}, {"why", nghttp2_strerror(static_cast<int>(taken))}});
  failed_ = true;
}

Protocol::Fate Http2::fate() const {
  if (failed_) return Fate::close;
  return nghttp2_session_want_read(session_) || nghttp2_session_want_write(session_) ? Fate::open : Fate::close;
}

void Http2::fill(std::size_t target) {
  while (!failed_ && home_.out.size() < target) {
    const std::uint8_t* bytes = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
    failed_ = size < 0;
    if (size <= 0) return;
    home_.out.append({reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size)});
    home_.out.mark(std::exchange(framed_, {}));
  }
}

// --- a request arrives

int Http2::on_begin_headers(const nghttp2_frame& frame) {
  if (frame.hd.type != NGHTTP2_HEADERS || frame.headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  auto stream = std::make_unique<Stream>(Stream{.id = frame.hd.stream_id});
  stream->arriving = std::make_unique<Arriving>(home_.bodies);
  stream->arriving->request = {.peer = home_.peer, .version = 20, .tls = home_.tls, .peer_names = home_.peer_names};
  watch(*stream, Clock::now() + home_.options.header_timeout);
  streams_.emplace(frame.hd.stream_id, std::move(stream));
  return 0;
}

int Http2::on_header(const nghttp2_frame& frame, std::string_view name, std::string_view value) {
  Stream* stream = find(frame.hd.stream_id);
  if (!stream || !stream->arriving || frame.headers.cat != NGHTTP2_HCAT_REQUEST) return 0;  // trailers are dropped
  // Counted as the peer was told to count (RFC 9113, 6.5.2).
  stream->header_bytes += name.size() + value.size() + 32;
  const std::size_t most = home_.options.max_header.count;
  if (stream->header_bytes > 4 * most) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // resets the stream
  if (stream->header_bytes > most) return 0;                                          // answered 431 at its end
  HttpRequest& request = stream->arriving->request;
  if (name == ":method") {
    request.method = value;
  } else if (name == ":path") {
    // Kept raw until all of the header is here.
    request.path = value;
  } else if (name == ":authority") {
    request.headers.emplace_back("host", value);
  } else if (!name.starts_with(':') && !(name == "host" && !find_header(request.headers, "host").empty())) {
    // Cookies come in crumbs (RFC 9113, 8.2.3).
    const auto cookie = name == "cookie" ? std::ranges::find(request.headers, "cookie", &Headers::value_type::first)
                                         : request.headers.end();
    if (cookie != request.headers.end())
      cookie->second.append("; ").append(value);
    else
      request.headers.emplace_back(name, value);
  }
  return 0;
}

int Http2::on_frame(const nghttp2_frame& frame) {
  Stream* stream = frame.hd.stream_id > 0 ? find(frame.hd.stream_id) : nullptr;
  const bool ends = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  switch (frame.hd.type) {
    case NGHTTP2_HEADERS:
      if (!stream) return 0;
      stream->input_done = ends;
      if (frame.headers.cat == NGHTTP2_HCAT_REQUEST) head_arrived(*stream);
      if (ends && stream->arriving) hand_over(*stream);
      return 0;
    case NGHTTP2_DATA:
      if (!stream || !ends) return 0;
      stream->input_done = true;
      if (stream->arriving) hand_over(*stream);
      return 0;
    default:
      return 0;
  }
}

void Http2::head_arrived(Stream& stream) {
  idle_bytes_ = 0;
  HttpRequest& request = stream.arriving->request;
  stream.method = request.method;
  if (stream.header_bytes > home_.options.max_header.count)
    return refuse(stream,
                  {431, fmt::format("The request's header is larger than {} bytes.", home_.options.max_header.count)});
  if (request.method == "CONNECT") return refuse(stream, {501, "this server is no proxy"});
  if (const std::string target = std::exchange(request.path, {}); !split_target(target, request.path, request.query))
    return refuse(stream, {400, "the request target is not a valid path"});
  // nghttp2 has seen to it that content-length is one number, and holds the body to it.
  const std::uint64_t length = parse_decimal(find_header(request.headers, "content-length")).value_or(0);
  if (length > home_.options.max_body.count) return refuse(stream, body_too_large(home_.options.max_body));
  if (stream.input_done) return;
  watch(stream, Clock::now() + home_.options.body_timeout);
  if (equals_ignoring_case(find_header(request.headers, "expect"), "100-continue")) {
    std::string name = ":status", value = "100";
    const nghttp2_nv status{reinterpret_cast<std::uint8_t*>(name.data()), reinterpret_cast<std::uint8_t*>(value.data()),
                            name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
    nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream.id, nullptr, &status, 1, nullptr);
  }
}

int Http2::on_data(std::int32_t id, std::string_view bytes) {
  idle_bytes_ = 0;
  Stream* stream = find(id);
  if (!stream || !stream->arriving) return 0;
  if (const auto refusal = stream->arriving->add(bytes, home_.options.max_body)) refuse(*stream, *refusal);
  return 0;
}

void Http2::hand_over(Stream& stream) {
  stream.deadline = kNever;
  HttpRequest request = std::move(stream.arriving->request);
  stream.arriving.reset();
  stream.line = open_exchange(home_.handler, home_.door, static_cast<std::uint32_t>(stream.id), std::move(request));
}

void Http2::refuse(Stream& stream, const Refusal& refusal) {
  stream.arriving.reset();
  stream.deadline = kNever;
  std::string body = error_body(refusal.status, refusal.why);
  submit(stream, refusal.status, error_headers(refusal.status), true, body.size());
  if (!stream.ended) add(stream, std::move(body));
  stream.ended = true;
}

// --- an answer leaves

void Http2::answer(AnswerPart&& part) {
  Stream* stream = find(static_cast<std::int32_t>(part.stream));
  if (!stream || !stream->line || stream->ended) return;
  const int status = part.status >= 200 && part.status <= 599 ? part.status : 500;
  switch (part.kind) {
    case AnswerPart::Kind::respond:
      if (stream->begun) return;
      submit(*stream, status, part.headers, !part.data.empty(), part.data.size());
      if (!stream->ended) add(*stream, std::move(part.data), std::move(part.marks));
      break;
    case AnswerPart::Kind::begin:
      if (!stream->begun) submit(*stream, status, part.headers, true, std::nullopt);
      if (!stream->ended) return;
      break;
    case AnswerPart::Kind::write:
      if (!stream->begun) return;
      if (!stream->pending.empty() && stream->pending.size() + part.data.size() > home_.options.max_unsent.count)
        return give_up(*stream, NGHTTP2_ENHANCE_YOUR_CALM);
      return add(*stream, std::move(part.data), std::move(part.marks));
    case AnswerPart::Kind::end:
      if (!stream->begun) return;
      break;
    case AnswerPart::Kind::dropped:
      stream->line->finish();
      stream->line.reset();
      if (stream->begun)
        reset(stream->id, NGHTTP2_INTERNAL_ERROR);
      else
        refuse(*stream, {500, "The server gave no answer."});
      return;
  }
  stream->ended = true;
  stream->line->finish();
  stream->line.reset();
  resume(*stream);
}

// Sends the header; marks the stream ended if no body may follow it.
void Http2::submit(Stream& stream, int status, const Headers& headers, bool body_follows,
                   std::optional<std::size_t> length) {
  count_request(stream.method, status);
  const bool never_a_body = status == 204 || status == 304;
  Headers all{{":status", fmt::format("{}", status)}};
  for (const auto& [name, value] : headers)
    if (may_send(name)) all.emplace_back(lower(name), safe_value(value));
  if (length && !never_a_body) all.emplace_back("content-length", fmt::format("{}", *length));
  all.emplace_back("date", http_date());
  std::vector<nghttp2_nv> pairs;
  pairs.reserve(all.size());
  for (auto& [name, value] : all)
    pairs.push_back({reinterpret_cast<std::uint8_t*>(name.data()), reinterpret_cast<std::uint8_t*>(value.data()),
                     name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  stream.begun = true;
  const bool no_body = !body_follows || never_a_body || stream.method == "HEAD";
  nghttp2_data_provider provider{};
  provider.source.ptr = &stream;
  provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t size, std::uint32_t* flags,
                              nghttp2_data_source* source, void* user) {
    return self(user).read_body(*static_cast<Stream*>(source->ptr), out, size, flags);
  };
  if (nghttp2_submit_response(session_, stream.id, pairs.data(), pairs.size(), no_body ? nullptr : &provider) != 0)
    reset(stream.id, NGHTTP2_INTERNAL_ERROR);
  stream.ended = no_body;
}

void Http2::add(Stream& stream, std::string&& bytes, Marks&& marks) {
  if (bytes.empty()) return;
  if (stream.pending.empty()) watch(stream, Clock::now() + home_.options.write_timeout);
  stream.pending.take(std::move(bytes));
  stream.pending.mark(std::move(marks));
  resume(stream);
}

void Http2::resume(Stream& stream) {
  if (std::exchange(stream.deferred, false)) nghttp2_session_resume_data(session_, stream.id);
}

// nghttp2 asks for the next DATA frame's content.
ssize_t Http2::read_body(Stream& stream, std::uint8_t* out, std::size_t size, std::uint32_t* flags) {
  std::size_t done = 0;
  while (done < size && !stream.pending.empty()) {
    const std::string_view run = stream.pending.front().substr(0, size - done);
    std::ranges::copy(run, out + done);
    done += run.size();
    stream.pending.pass(run.size(), framed_);
  }
  if (done > 0) idle_bytes_ = 0;
  stream.deadline = kNever;
  if (!stream.pending.empty())
    watch(stream, Clock::now() + home_.options.write_timeout);
  else if (stream.ended)
    *flags |= NGHTTP2_DATA_FLAG_EOF;
  else if (done == 0) {
    stream.deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  return static_cast<ssize_t>(done);
}

// A refused request may still be arriving when its answer is out. The client need
// not send the rest (RFC 9113, 8.1), but some clients that see the reset at once
// lose the answer: they have a moment.
int Http2::on_sent(const nghttp2_frame& frame) {
  if ((frame.hd.type != NGHTTP2_DATA && frame.hd.type != NGHTTP2_HEADERS) ||
      !(frame.hd.flags & NGHTTP2_FLAG_END_STREAM))
    return 0;
  Stream* stream = find(frame.hd.stream_id);
  if (stream && !stream->input_done) watch(*stream, Clock::now() + kLinger);
  return 0;
}

// --- the end of a stream, and of the connection

int Http2::on_stream_close(std::int32_t id) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return 0;
  const std::unique_ptr<Stream> stream = std::move(found->second);
  streams_.erase(found);
  if (streams_.empty()) idle_until_ = Clock::now() + home_.options.idle_timeout;
  if (stream->ended && stream->pending.empty()) return 0;
  if (stream->line) {
    stream->line->hang_up();
    stream->line->finish();
  }
  // Streams that end early cost us work and the client nothing, whoever resets
  // them: it may only do so now and then.
  broken_ += 1;
  const double seconds = std::chrono::duration<double>(Clock::now() - born_).count();
  if (broken_ > kBrokenBurst + kBrokenPerSecond * seconds)
    nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
  return 0;
}

void Http2::give_up(Stream& stream, std::uint32_t code) {
  if (stream.line) {
    const std::shared_ptr<Line> line = std::move(stream.line);
    line->hang_up();
    line->finish();
  }
  stream.deadline = kNever;
  reset(stream.id, code);
}

void Http2::watch(Stream& stream, TimePoint until) {
  stream.deadline = until;
  check_at_ = std::min(check_at_, until);
}

void Http2::expire(TimePoint now) {
  if (streams_.empty() && now >= idle_until_) {
    nghttp2_session_terminate_session(session_, NGHTTP2_NO_ERROR);
    idle_until_ = kNever;
    return;
  }
  if (now < check_at_) return;
  check_at_ = kNever;
  for (const auto& [id, stream] : streams_) {
    if (stream->deadline > now) {
      check_at_ = std::min(check_at_, stream->deadline);
    } else if (!stream->arriving) {
      const bool sent = stream->ended && stream->pending.empty();
      give_up(*stream, sent ? NGHTTP2_NO_ERROR : NGHTTP2_CANCEL);  // it sends on, or it does not read
    } else if (stream->method.empty()) {
      // In the midst of its header nothing else may be sent for it.
      nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
      return;
    } else {
      refuse(*stream, {408, "The request's body did not arrive in time."});
    }
  }
}

void Http2::drain() {
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                        NGHTTP2_NO_ERROR, nullptr, 0);
}

void Http2::lost() {
  for (const auto& [id, stream] : std::exchange(streams_, {})) {
    if (!stream->line) continue;
    stream->line->hang_up();
    stream->line->finish();
  }
}

}  // namespace

std::unique_ptr<Protocol> make_http2(ProtocolHome& home) { return std::make_unique<Http2>(home); }

}  // namespace ashlar::net
