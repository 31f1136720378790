// HTTP/1.0 and 1.1 on one connection: one request at a time is read, handed to
// the handler and answered; what the client sends meanwhile waits.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "net/http1_message.h"
#include "net/http_text.h"
#include "net/protocol.h"
#include "net/traffic.h"

namespace ashlar::net {
namespace {

// What a client may send ahead while an answer is made. Beyond it we stop reading.
constexpr std::size_t kMostAhead = 64 << 10;
constexpr std::size_t kFirstBody = 64 << 10;  // reserved at once for an announced body

class Http1 final : public Protocol {
 public:
  explicit Http1(ProtocolHome& home) : home_(home), deadline_(Clock::now() + home.options.header_timeout) {}

  void receive(std::string_view bytes) override;
  void receive_end() override;
  bool wants_input() const override { return state_ != State::answering || ahead_.size() < kMostAhead; }
  void answer(AnswerPart&& part) override;
  void drain() override;
  void lost() override;
  TimePoint deadline() const override { return deadline_; }
  void expire(TimePoint now) override;
  Fate fate() const override { return fate_; }
  bool busy() const override {
    return state_ == State::answering || incoming_ || (state_ == State::head && !ahead_.empty());
  }

 private:
  enum class State { head, body, answering, closing };

  struct Incoming : Arriving {
    using Arriving::Arriving;
    Framing framing;
    ChunkReader chunks;
  };

  void advance();
  bool read_head(std::string_view& bytes);
  bool read_body(std::string_view& bytes);
  bool keep_body(std::string_view run);
  void hand_over();
  void refuse(const Refusal& refusal);

  void write_head(int status, const Headers& headers, std::optional<std::size_t> length);
  void write_piece(std::string&& piece, Marks&& marks);
  void finish_answer();
  void close();
  void give_up();

  ProtocolHome& home_;
  State state_ = State::head;
  Fate fate_ = Fate::open;
  TimePoint deadline_;
  std::string ahead_;  // a head not yet whole, or requests sent ahead
  HeadScanner scanner_;
  std::unique_ptr<Incoming> incoming_;

  // The request being answered.
  std::shared_ptr<Line> line_;
  std::uint32_t number_ = 0;
  std::string method_;
  int minor_ = 1;
  bool keep_alive_ = true;
  bool head_only_ = false;  // HEAD, 204, 304: no body follows
  bool begun_ = false;
  bool chunked_ = false;
  bool input_ended_ = false;
  bool draining_ = false;
};

void Http1::receive(std::string_view bytes) {
  if (state_ == State::closing) return;
  if (state_ == State::answering || !ahead_.empty()) {
    ahead_.append(bytes);
    if (state_ != State::answering) advance();
    return;
  }
  while (!bytes.empty() && (state_ == State::head ? read_head(bytes) : state_ == State::body && read_body(bytes))) {
  }
  if (state_ != State::closing) ahead_.assign(bytes);
}

// Reads on in what was kept.
void Http1::advance() {
  std::string_view bytes = ahead_;
  while (!bytes.empty() && (state_ == State::head ? read_head(bytes) : state_ == State::body && read_body(bytes))) {
  }
  if (bytes.empty() || state_ == State::closing)
    std::string().swap(ahead_);
  else
    ahead_.erase(0, ahead_.size() - bytes.size());
}

// Each read_ function returns true if it came to the end of its part.
bool Http1::read_head(std::string_view& bytes) {
  while (bytes.starts_with("\r\n")) bytes.remove_prefix(2);  // RFC 9112, 2.2
  if (bytes.empty() || bytes == "\r") return false;
  const auto size = scanner_.scan(bytes);
  if (!size) return refuse(size.error()), false;
  const std::size_t most = home_.options.max_header.count;
  if (*size > most || (*size == 0 && bytes.size() > most)) {
    refuse({431, fmt::format("The request's header is larger than {} bytes.", most)});
    return false;
  }
  if (*size == 0) {
    if (ahead_.empty()) deadline_ = Clock::now() + home_.options.header_timeout;
    return false;
  }
  auto head = parse_request_head(bytes.substr(0, *size));
  bytes.remove_prefix(*size);
  scanner_ = {};
  if (!head) return refuse(head.error()), false;

  method_ = head->method;
  minor_ = head->minor;
  keep_alive_ = head->framing.keep_alive;
  incoming_ = std::make_unique<Incoming>(home_.bodies);
  incoming_->framing = head->framing;
  incoming_->request = {.method = std::move(head->method),
                        .path = std::move(head->path),
                        .query = std::move(head->query),
                        .headers = std::move(head->headers),
                        .peer = home_.peer,
                        .version = 11,
                        .tls = home_.tls,
                        .peer_names = home_.peer_names};
  const std::uint64_t length = head->framing.length.value_or(0);
  if (length > home_.options.max_body.count) return refuse(body_too_large(home_.options.max_body)), false;
  if (length == 0 && !head->framing.chunked) return hand_over(), true;
  incoming_->request.body.reserve(std::min<std::size_t>(length, kFirstBody));
  state_ = State::body;
  deadline_ = Clock::now() + home_.options.body_timeout;
  if (head->expects_continue && bytes.empty()) home_.out.append("HTTP/1.1 100 Continue\r\n\r\n");
  return true;
}

bool Http1::read_body(std::string_view& bytes) {
  if (!incoming_->framing.chunked) {
    const std::size_t left = *incoming_->framing.length - incoming_->request.body.size();
    const std::string_view run = bytes.substr(0, left);
    bytes.remove_prefix(run.size());
    if (!keep_body(run)) return false;
    if (run.size() == left) hand_over();
    return run.size() == left;
  }
  while (!bytes.empty() && !incoming_->chunks.done()) {
    const auto run = incoming_->chunks.next(bytes);
    if (!run) return refuse(run.error()), false;
    if (!keep_body(*run)) return false;
  }
  if (!incoming_->chunks.done()) return false;
  hand_over();
  return true;
}

// False: refused.
bool Http1::keep_body(std::string_view run) {
  const auto refusal = incoming_->add(run, home_.options.max_body);
  if (refusal) refuse(*refusal);
  return !refusal;
}

void Http1::hand_over() {
  const std::unique_ptr<Incoming> whole = std::move(incoming_);
  state_ = State::answering;
  deadline_ = kNever;
  begun_ = chunked_ = false;
  head_only_ = method_ == "HEAD";
  line_ = open_exchange(home_.handler, home_.door, ++number_, std::move(whole->request));
  if (input_ended_) line_->hang_up();
}

void Http1::refuse(const Refusal& refusal) {
  incoming_.reset();
  keep_alive_ = false;
  head_only_ = false;
  const std::string body = error_body(refusal.status, refusal.why);
  count_request(method_, refusal.status);
  write_head(refusal.status, error_headers(refusal.status), body.size());
  home_.out.append(body);
  close();
}

void Http1::receive_end() {
  input_ended_ = true;
  // The client may have closed only its sending side and still wait: the answer
  // is told, and sent if it comes all the same.
  if (state_ == State::answering)
    line_->hang_up();
  else
    close();
}

void Http1::write_head(int status, const Headers& headers, std::optional<std::size_t> length) {
  std::string head;
  head.reserve(768);
  head.append("HTTP/1.1 ").append(fmt::format_int(status).str()).append(" ").append(reason(status)).append("\r\n");
  for (const auto& [name, value] : headers) {
    if (name == "connection" && has_word(value, "close")) keep_alive_ = false;
    append_field(head, name, value);
  }
  if (draining_ || (input_ended_ && ahead_.empty())) keep_alive_ = false;
  const bool never_a_body = status == 204 || status == 304;
  head_only_ = head_only_ || never_a_body;
  if (!never_a_body) {
    if (length)
      head.append("content-length: ").append(fmt::format_int(*length).str()).append("\r\n");
    else if (minor_ == 1)
      head.append("transfer-encoding: chunked\r\n");
    else
      keep_alive_ = false;  // HTTP/1.0: the end of the connection is the end of the body
    chunked_ = !length && minor_ == 1;
  }
  head.append("date: ").append(http_date()).append("\r\n");
  if (!keep_alive_)
    head.append("connection: close\r\n");
  else if (minor_ == 0)
    head.append("connection: keep-alive\r\n");
  head.append("\r\n");
  home_.out.append(head);
}

void Http1::answer(AnswerPart&& part) {
  if (state_ != State::answering || part.stream != number_) return;
  const int status = part.status >= 200 && part.status <= 599 ? part.status : 500;
  switch (part.kind) {
    case AnswerPart::Kind::respond:
      if (begun_) return;
      count_request(method_, status);
      write_head(status, part.headers, part.data.size());
      if (!head_only_) home_.out.take(std::move(part.data));
      home_.out.mark(std::move(part.marks));
      return finish_answer();
    case AnswerPart::Kind::begin:
      if (begun_) return;
      begun_ = true;
      count_request(method_, status);
      return write_head(status, part.headers, std::nullopt);
    case AnswerPart::Kind::write:
      if (begun_ && !head_only_) write_piece(std::move(part.data), std::move(part.marks));
      return;
    case AnswerPart::Kind::end:
      if (!begun_) return;
      if (chunked_ && !head_only_) home_.out.append("0\r\n\r\n");
      return finish_answer();
    case AnswerPart::Kind::dropped: {
      if (!begun_ && !input_ended_)
        return answer({AnswerPart::Kind::respond,
                       number_,
                       500,
                       error_headers(),
                       error_body(500, "The server gave no answer."),
                       {}});
      line_->finish();
      line_.reset();
      return close();  // without the last chunk: the client sees that it was cut
    }
  }
}

void Http1::write_piece(std::string&& piece, Marks&& marks) {
  if (!home_.out.empty() && home_.out.size() + piece.size() > home_.options.max_unsent.count) return give_up();
  if (chunked_) home_.out.append(fmt::format("{:x}\r\n", piece.size()));
  home_.out.take(std::move(piece));
  if (chunked_) home_.out.append("\r\n");
  home_.out.mark(std::move(marks));
}

void Http1::finish_answer() {
  line_->finish();
  line_.reset();
  if (!keep_alive_ || draining_) return close();
  state_ = State::head;
  method_.clear();
  deadline_ = Clock::now() + (ahead_.empty() ? home_.options.idle_timeout : home_.options.header_timeout);
  if (!ahead_.empty()) advance();
  if (input_ended_ && (state_ == State::head || state_ == State::body)) close();  // the next will never be whole
}

void Http1::close() {
  state_ = State::closing;
  fate_ = Fate::close;
  deadline_ = kNever;
  incoming_.reset();
  std::string().swap(ahead_);
}

// The client takes nothing any more.
void Http1::give_up() {
  lost();
  close();
  fate_ = Fate::reset;
}

void Http1::drain() {
  draining_ = true;
  if (!busy() && state_ == State::head) close();
}

void Http1::lost() {
  if (!line_) return;
  const std::shared_ptr<Line> line = std::move(line_);
  line->hang_up();
  line->finish();
}

void Http1::expire(TimePoint now) {
  if (now < deadline_) return;
  if (state_ == State::head && ahead_.empty()) return close();
  if (state_ == State::head) return refuse({408, "The request's header did not arrive in time."});
  if (state_ == State::body) return refuse({408, "The request's body did not arrive in time."});
  deadline_ = kNever;
}

}  // namespace

std::unique_ptr<Protocol> make_http1(ProtocolHome& home) { return std::make_unique<Http1>(home); }

}  // namespace ashlar::net
