#include "store/download.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "base/bytes.h"
#include "net/http_text.h"
#include "store/digest.h"
#include "store/names.h"
#include "store/wire.h"

namespace ashlar::store {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kTick{100}, kSaveEvery{1000};
constexpr int kMostChanges = 3;                    // of the file on the server, while we fetch it
constexpr std::uint64_t kRealProgress = 64 << 10;  // less between two failures is none

// One request under way. The client's thread fills it until it has put an event;
// then it is ours.
struct Transfer {
  enum class Kind { probe, range, whole };
  Transfer(PartFile& its_part, Kind its_kind, std::uint64_t its_begin, std::optional<std::uint64_t> its_end,
           std::optional<std::uint64_t> its_size, std::string its_validator)
      : part(its_part),
        kind(its_kind),
        begin(its_begin),
        end(its_end),
        size(its_size),
        validator(std::move(its_validator)) {}

  PartFile& part;
  const Kind kind;
  const std::uint64_t begin;
  const std::optional<std::uint64_t> end;   // nullopt: to wherever it ends
  const std::optional<std::uint64_t> size;  // of the file; nullopt: not known
  const std::string validator;              // "": none
  int status = 0;
  net::Headers headers;
  bool accepted = false;         // what comes are the file's bytes
  bool changed = false;          // the file is another now
  std::optional<Error> refused;  // by us
  std::atomic<std::uint64_t> written{0};

  // True: an event is due at once.
  bool on_head(int its_status, const net::Headers& its_headers) {
    status = its_status;
    headers = its_headers;
    if (kind == Kind::range && status == 206)
      judge_range();
    else if (kind == Kind::whole && status == 200)
      judge_whole();
    return !accepted;
  }

  bool on_data(std::string_view bytes) {
    if (!accepted || refused) return false;
    const std::uint64_t at = begin + written.load(std::memory_order_relaxed);
    if (end && bytes.size() > *end - at)
      refused = Error{Code::corrupt, "the server sends more than it announced"};
    else if (Status done = part.write(at, bytes); !done)
      refused = done.error();
    else
      written.fetch_add(bytes.size(), std::memory_order_release);
    return refused.has_value();
  }

 private:
  void judge_range() {
    const auto range = parse_content_range(net::find_header(headers, "content-range"));
    if (!range || range->unsatisfied || range->first != begin || range->last >= *end)
      refused = Error{Code::corrupt, "the server sends another part of the file than the one asked for"};
    else if ((range->total && range->total != size) || !is_same_state(validator, headers))
      changed = true;
    else
      accepted = true;
  }
  void judge_whole() {
    const auto length = net::parse_decimal(net::find_header(headers, "content-length"));
    if (size && length && *length != *size)
      refused = Error{Code::corrupt, fmt::format("the server has {} bytes where {} were announced", *length, *size)};
    else
      accepted = true;
  }
};

struct Event {
  std::size_t lane = 0;
  std::uint64_t turn = 0;
  Status status;  // of the transport
};

class Events {
 public:
  void put(Event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_one();
  }
  // nullopt: none came within a tick.
  std::optional<Event> take() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kTick, [&] { return !events_.empty(); })) return std::nullopt;
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Event> events_;
};

// One connection's work.
struct Lane {
  std::uint64_t turn = 0;  // counts its requests: an event of an earlier one is stale
  Address via;
  int hops = 0;
  Clock::time_point started;
  std::size_t piece = 0;
  std::shared_ptr<Transfer> transfer;  // null: idle
  std::unique_ptr<net::Call> call;
};

class Fetch {
 public:
  Fetch(Courier& courier, const Wanted& wanted, const DownloadOptions& options, PartFile& part,
        const DownloadWatch& watch)
      : courier_(courier),
        wanted_(wanted),
        options_(options),
        part_(part),
        watch_(watch),
        size_(wanted.size),
        patience_(courier.options()) {}

  Status run() {
    TRY(courier_.check_online(wanted_.name));
    for (int changes = 0;;) {
      auto end = attempt();
      if (!end) keep();
      lanes_.clear();
      if (!end) {
        Error error = end.error();
        if (!error.message.starts_with(wanted_.name))
          error.message = fmt::format("{}: {}", wanted_.name, error.message);
        return error;
      }
      if (*end == Outcome::fine) return {};
      if (++changes > kMostChanges)
        return Error{Code::corrupt, fmt::format("{}: it changes on the server while it is fetched", wanted_.name)};
      pieces_.clear();
      fresh_ = true;
    }
  }

  // What an x-linked-etag told on the way; "": none.
  const std::string& linked_sha256() const { return linked_sha256_; }
  std::optional<std::uint64_t> size() const { return size_; }

 private:
  using Kind = Transfer::Kind;
  // Of an event, and of a drive: whether the file is still the one that we began with.
  enum class Outcome { fine, changed };

  Result<Outcome> attempt() {
    auto journal = fresh_ ? std::nullopt : part_.journal();
    const bool small = size_ && *size_ <= options_.small;
    ranges_ = false;
    if (!small || journal) {
      validator_.clear();
      TRY(drive(Kind::probe));
    }
    if (size_ == 0) {
      TRY(part_.begin(0));
      return Outcome::fine;
    }
    if (!ranges_) {
      TRY(part_.begin(size_));
      return drive(Kind::whole);
    }
    if (journal && journal->size == size_ && journal->validator == validator_) {
      pieces_ = std::move(journal->pieces);
    } else {
      TRY(part_.begin(size_));
      pieces_ = cut_pieces(*size_, options_.piece);
    }
    return drive(Kind::range);
  }

  Result<Outcome> drive(Kind kind) {
    kind_ = kind;
    over_ = false;
    allowed_ = kind == Kind::range ? std::max(1, options_.connections) : 1;
    lanes_.resize(static_cast<std::size_t>(allowed_));
    while (true) {
      if (Clock::now() >= not_before_) open_lanes();
      if (std::ranges::none_of(lanes_, [](const Lane& lane) { return lane.transfer != nullptr; }) && nothing_left()) {
        lanes_.clear();
        return Outcome::fine;
      }
      if (auto event = events_.take()) {
        Lane* lane = event->lane < lanes_.size() ? &lanes_[event->lane] : nullptr;
        if (lane != nullptr && lane->transfer && lane->turn == event->turn &&
            TRY(handle(*lane, event->status)) == Outcome::changed)
          return Outcome::changed;
      }
      TRY(tick());
    }
  }

  bool nothing_left() const {
    return kind_ == Kind::range ? std::ranges::all_of(pieces_, [](const Piece& p) { return p.have == p.end - p.begin; })
                                : over_;
  }

  void open_lanes() {
    const auto busy = std::ranges::count_if(lanes_, [](const Lane& lane) { return lane.transfer != nullptr; });
    for (auto more = allowed_ - busy; more > 0; --more) {
      const auto piece = next_piece();
      if (!piece) return;
      Lane& lane = *std::ranges::find(lanes_, nullptr, &Lane::transfer);
      lane.piece = *piece;
      lane.via = final_.value_or(wanted_.address);
      lane.hops = 0;
      start(lane);
    }
  }

  // One that has not all come and that nobody fetches.
  std::optional<std::size_t> next_piece() const {
    if (kind_ != Kind::range) return nothing_left() ? std::nullopt : std::optional<std::size_t>(0);
    for (std::size_t i = 0; i < pieces_.size(); ++i)
      if (pieces_[i].have < pieces_[i].end - pieces_[i].begin &&
          std::ranges::none_of(lanes_, [&](const Lane& lane) { return lane.transfer && lane.piece == i; }))
        return i;
    return std::nullopt;
  }

  void start(Lane& lane) {
    net::ClientRequest request;
    std::uint64_t begin = 0;
    std::optional<std::uint64_t> end = size_;
    if (kind_ == Kind::probe) {
      request.headers.emplace_back("range", "bytes=0-0");
    } else if (kind_ == Kind::range) {
      const Piece& piece = pieces_[lane.piece];
      begin = piece.begin + piece.have;
      end = piece.end;
      request.headers.emplace_back("range", fmt::format("bytes={}-{}", begin, *end - 1));
      if (validator_.starts_with('"')) request.headers.emplace_back("if-range", validator_);
    }
    const auto transfer = std::make_shared<Transfer>(part_, kind_, begin, end, size_, validator_);
    lane.transfer = transfer;
    lane.started = Clock::now();
    const auto tell = [this, number = static_cast<std::size_t>(&lane - lanes_.data()), turn = ++turns_](Status status) {
      events_.put({.lane = number, .turn = turn, .status = std::move(status)});
    };
    lane.turn = turns_;
    lane.call = courier_.send(lane.via, std::move(request),
                              {.on_head =
                                   [transfer, tell](int status, const net::Headers& headers) {
                                     if (transfer->on_head(status, headers)) tell({});
                                   },
                               .on_data =
                                   [transfer, tell](std::string_view bytes) {
                                     if (transfer->on_data(bytes)) tell({});
                                   },
                               .on_done = tell});
  }

  // The lane's request has ended, or says enough to be ended.
  Result<Outcome> handle(Lane& lane, const Status& status) {
    lane.call.reset();
    const auto transfer = std::exchange(lane.transfer, nullptr);
    const std::uint64_t written = transfer->written.load(std::memory_order_acquire);
    if (kind_ == Kind::range) pieces_[lane.piece].have += written;
    if (transfer->changed) return Outcome::changed;
    if (transfer->refused) {
      if (transfer->refused->code == Code::io) return *transfer->refused;
      return failed(lane, *transfer->refused, transfer->headers);
    }
    if (!transfer->accepted && transfer->status != 0) return answered(lane, *transfer);
    if (!status) {
      if (!is_transient(status.error())) return status.error();
      if (kind_ == Kind::probe && status.error().code == Code::unavailable && ++unreached_ > kMostUnreached)
        return status.error();
      return failed(lane, status.error(), transfer->headers);
    }
    const std::uint64_t due = transfer->end ? *transfer->end - transfer->begin : written;
    if (written < due) return failed(lane, {Code::corrupt, "the server ended its answer too soon"}, transfer->headers);
    if (kind_ == Kind::whole) {
      size_ = written;
      over_ = true;
    }
    final_ = lane.via;
    return Outcome::fine;
  }

  // A head without bytes of the file.
  Result<Outcome> answered(Lane& lane, const Transfer& transfer) {
    const int status = transfer.status;
    if (is_redirect(status)) {
      TRY(note_links(lane.via, transfer.headers));
      if (++lane.hops > kMostRedirects)
        return Error{Code::corrupt, fmt::format("more than {} redirects", kMostRedirects)};
      lane.via = TRY(redirected(lane.via, status, transfer.headers));
      start(lane);
      return Outcome::fine;
    }
    if (kind_ == Kind::probe && (status == 206 || status == 200 || status == 416)) {
      TRY(learn(lane, transfer));
      over_ = true;
      return Outcome::fine;
    }
    // The server no longer has the state that we began with, or no longer gives parts.
    if (kind_ == Kind::range && (status == 200 || status == 416)) return Outcome::changed;
    const Error error = refused_by(wanted_.name, lane.via.url, status, transfer.headers);
    if (is_transient(status)) {
      if (status == 429 || status == 503) allowed_ = std::max<std::ptrdiff_t>(1, allowed_ / 2);
      return failed(lane, error, transfer.headers);
    }
    // What a redirect led to may be signed for a time that is over.
    if (lane.via.url != wanted_.address.url && (status == 401 || status == 403 || status == 404 || status == 410)) {
      final_.reset();
      return failed(lane, error, transfer.headers);
    }
    return error;
  }

  Status learn(const Lane& lane, const Transfer& transfer) {
    TRY(note_links(lane.via, transfer.headers));
    std::optional<std::uint64_t> total;
    if (transfer.status == 200) {
      total = net::parse_decimal(net::find_header(transfer.headers, "content-length"));
    } else {
      const auto range = parse_content_range(net::find_header(transfer.headers, "content-range"));
      if (range) total = range->total;
      if (transfer.status == 416 && total != 0)
        return Error{Code::corrupt, "the server refuses to send the file's first byte"};
      ranges_ = transfer.status == 206 && range && !range->unsatisfied && range->first == 0 && total.has_value();
    }
    if (wanted_.size && total && *total != *wanted_.size)
      return Error{Code::corrupt,
                   fmt::format("the server has {} bytes where {} were announced", *total, *wanted_.size)};
    size_ = total ? total : wanted_.size;
    validator_ = validator_of(transfer.headers);
    final_ = lane.via;
    return {};
  }

  // The hub's own word on what its redirect leads to.
  Status note_links(const Address& from, const net::Headers& headers) {
    if (!wanted_.linked || TRY(origin_of(from.url)) != TRY(origin_of(wanted_.address.url))) return {};
    std::string_view etag = net::find_header(headers, "x-linked-etag");
    if (etag.size() > 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
    if (const auto digest = parse_sha256(etag)) {
      if (!wanted_.sha256.empty() && *digest != wanted_.sha256)
        return Error{Code::corrupt,
                     "the hub names two different checksums for it; it may just have changed: try again"};
      linked_sha256_ = *digest;
    }
    const auto size = net::parse_decimal(net::find_header(headers, "x-linked-size"));
    if (size && wanted_.size && *size != *wanted_.size)
      return Error{Code::corrupt, "the hub names two different sizes for it; it may just have changed: try again"};
    if (size && !size_) size_ = size;
    return {};
  }

  // The lane rests, and with it those that would begin, until another try may go
  // better. What fails together is one failure.
  Result<Outcome> failed(const Lane& lane, const Error& error, const net::Headers& headers) {
    if (lane.started < last_failure_) return Outcome::fine;
    const std::uint64_t have = arrived();
    if (have >= had_ + kRealProgress) patience_.progressed();
    had_ = have;
    const auto asked = net::parse_retry_after(net::find_header(headers, "retry-after"), std::chrono::system_clock::now());
    const auto wait = patience_.after_failure(asked);
    if (!wait) return error;
    last_failure_ = Clock::now();
    not_before_ = last_failure_ + *wait;
    return Outcome::fine;
  }

  std::uint64_t arrived() const {
    std::uint64_t sum = 0;
    if (kind_ == Kind::range)
      for (const Piece& piece : pieces_) sum += piece.have;
    for (const Lane& lane : lanes_)
      if (lane.transfer) sum += lane.transfer->written.load(std::memory_order_acquire);
    return sum;
  }

  Journal snapshot() const {
    Journal journal{.size = *size_, .validator = validator_, .pieces = pieces_};
    for (const Lane& lane : lanes_)
      if (lane.transfer) journal.pieces[lane.piece].have += lane.transfer->written.load(std::memory_order_acquire);
    return journal;
  }

  Status tick() {
    const auto now = Clock::now();
    if (kind_ != Kind::probe && now >= next_watch_) {
      next_watch_ = now + kTick;
      TRY(watch_({.stage = Stage::fetching, .done = arrived(), .total = size_}));
    } else if (kind_ == Kind::probe) {
      TRY(watch_({.stage = Stage::fetching, .done = 0, .total = size_}));
    }
    if (kind_ == Kind::range && now >= next_save_) {
      TRY(part_.save(snapshot()));
      next_save_ = Clock::now() + kSaveEvery;
    }
    return {};
  }

  // After an error: what has come stays for the next try, if parts of it are of use.
  void keep() {
    if (kind_ != Kind::range || pieces_.empty() || !ranges_) return;
    (void)part_.save(snapshot());  // an older journal only names less
  }

  Courier& courier_;
  const Wanted& wanted_;
  const DownloadOptions& options_;
  PartFile& part_;
  const DownloadWatch& watch_;

  std::optional<std::uint64_t> size_;
  std::string validator_, linked_sha256_;
  bool ranges_ = false;
  bool fresh_ = false;  // what the journal says is of a state that is gone
  std::optional<Address> final_;
  Kind kind_ = Kind::probe;
  bool over_ = false;  // of what is no range
  std::ptrdiff_t allowed_ = 1;
  std::vector<Piece> pieces_;
  Patience patience_;
  int unreached_ = 0;  // probes that reached no server
  std::uint64_t had_ = 0;
  std::uint64_t turns_ = 0;
  Clock::time_point not_before_, last_failure_, next_watch_, next_save_;
  Events events_;
  std::vector<Lane> lanes_;  // last: its calls end before what they use
};

}  // namespace

Result<Arrived> check_arrived(const Wanted& wanted, const PartFile& part, const DownloadWatch& watch) {
  const std::uint64_t size = wanted.size.value_or(0);
  Hasher digest(Hasher::Kind::sha256), git(Hasher::Kind::sha1);
  git.add(fmt::format("blob {}", size) + '\0');
  const bool by_git = wanted.sha256.empty() && !wanted.git_sha1.empty();
  std::vector<char> buffer(1 << 20);
  for (std::uint64_t at = 0; at < size;) {
    const std::size_t n =
        TRY(part.read(at, std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), size - at))));
    if (n == 0) return Error{Code::io, fmt::format("{}: the file on the disk is shorter than what came", wanted.name)};
    const std::string_view bytes(buffer.data(), n);
    if (at == 0) TRY(check_first_bytes(wanted.name, bytes));
    digest.add(bytes);
    if (by_git) git.add(bytes);
    at += n;
    TRY(watch({.stage = Stage::checking, .done = at, .total = size}));
  }
  Arrived arrived{.size = size, .sha256 = to_hex(digest.finish()), .checked_by = ""};
  const auto differs = [&](std::string_view kind, std::string_view is, std::string_view should) {
    return Error{Code::corrupt, fmt::format("{}: what came has the {} {}, not {}", wanted.name, kind, is, should)};
  };
  if (!wanted.sha256.empty()) {
    if (arrived.sha256 != wanted.sha256) return differs("sha256", arrived.sha256, wanted.sha256);
    arrived.checked_by = "sha256";
  } else if (by_git) {
    const std::string found = to_hex(git.finish());
    if (found != wanted.git_sha1) return differs("git sha1", found, wanted.git_sha1);
    arrived.checked_by = "git_sha1";
  }
  return arrived;
}

Result<Wanted> download(Courier& courier, const Wanted& wanted, const DownloadOptions& options, PartFile& part,
                        const DownloadWatch& watch) {
  Fetch fetch(courier, wanted, options, part, watch);
  TRY(fetch.run());
  Wanted learnt = wanted;
  learnt.size = fetch.size();
  if (learnt.sha256.empty()) learnt.sha256 = fetch.linked_sha256();
  return learnt;
}

}  // namespace ashlar::store
