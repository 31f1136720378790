#include "store/postgres.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

namespace ashlar::store {
namespace {

// Types of pg_type that we speak of; they never change.
constexpr Oid kBool = 16, kBytes = 17, kInt8 = 20, kInt2 = 21, kInt4 = 23, kText = 25, kFloat4 = 700, kFloat8 = 701,
              kNumeric = 1700;
constexpr std::size_t kNumbered = 256;

struct Argument {
  Oid type = 0;
  std::string text;
  bool null = false, binary = false;
};

Argument argument(const Value& value) {
  struct Maker {
    Argument operator()(std::monostate) const { return {.null = true}; }
    Argument operator()(std::int64_t v) const { return {.type = kInt8, .text = fmt::format("{}", v)}; }
    Argument operator()(double v) const { return {.type = kFloat8, .text = fmt::format("{}", v)}; }
    Argument operator()(const std::string& v) const { return {.type = kText, .text = v, .binary = true}; }
    Argument operator()(const Blob& v) const { return {.type = kBytes, .text = v.bytes, .binary = true}; }
  };
  return std::visit(Maker{}, value);
}

// bytea in text: \x0123...
std::string from_hex(std::string_view text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; };
  std::string out;
  for (std::size_t at = 2; at + 1 < text.size(); at += 2)
    out.push_back(static_cast<char>(digit(text[at]) << 4 | digit(text[at + 1])));
  return out;
}

Value number(std::string_view text) {
  std::int64_t whole = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), whole);
  if (failed == std::errc() && end == text.data() + text.size()) return whole;
  return std::strtod(std::string(text).c_str(), nullptr);
}

Value value_of(Oid type, std::string_view text) {
  switch (type) {
    case kBool:
      return std::int64_t{text == "t"};
    case kInt2:
    case kInt4:
    case kInt8:
    case kNumeric:
      return number(text);
    case kFloat4:
    case kFloat8:
      return std::strtod(std::string(text).c_str(), nullptr);
    case kBytes:
      return Blob{from_hex(text)};
    default:
      return std::string(text);
  }
}

// The statement, or one that fails where it changes nothing.
std::string conditional(const Numbered& statement, std::string_view unchanged) {
  const std::string fail = fmt::format("CAST('{}' || left(count(*)::text, 0) AS bigint)", unchanged);
  if (!statement.returns)
    return fmt::format(
        "WITH ashlar_w AS ({}\nRETURNING 1) SELECT CASE count(*) WHEN 0 THEN {} ELSE count(*) END FROM "
        "ashlar_w",
        statement.sql, fail);
  return fmt::format(
      "WITH ashlar_w AS ({}\n), ashlar_n AS (SELECT CASE count(*) WHEN 0 THEN {} ELSE 1 END AS n FROM "
      "ashlar_w) SELECT ashlar_w.* FROM ashlar_n LEFT JOIN ashlar_w ON true WHERE ashlar_n.n = 1",
      statement.sql, fail);
}

}  // namespace

std::string one_line(std::string text) {
  std::ranges::replace_if(text, [](char c) { return c == '\n' || c == '\t'; }, ' ');
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

Result<std::unique_ptr<Postgres>> Postgres::connect(const std::string& url, Mode mode, const DatabaseOptions& options) {
  const Pq& pq = *TRY(load_pq());
  const auto seconds =
      std::max<std::int64_t>(2, std::chrono::ceil<std::chrono::seconds>(options.connect_timeout).count());
  const std::string timeout = fmt::format("{}", seconds);
  // What comes later wins: the URL may say another timeout, and no other encoding.
  const char* const words[] = {"connect_timeout",
                               "application_name",
                               "keepalives_idle",
                               "tcp_user_timeout",
                               "dbname",
                               "client_encoding",
                               nullptr};
  const char* const values[] = {timeout.c_str(), "ashlar", "30", "30000", url.c_str(), "UTF8", nullptr};
  PGconn* const handle = pq.PQconnectdbParams(words, values, /*expand_dbname=*/1);
  if (handle == nullptr) return Error{Code::unavailable, "PostgreSQL: no memory for a connection"};
  std::unique_ptr<Postgres> made(new Postgres(pq, handle, mode, options));
  if (pq.PQstatus(handle) != CONNECTION_OK) return Error{Code::unavailable, one_line(pq.PQerrorMessage(handle))};
  TRY(made->prepare());
  return made;
}

Postgres::~Postgres() { pq_.PQfinish(handle_); }

Status Postgres::prepare() {
  pq_.PQsetNoticeProcessor(handle_, [](void*, const char*) {}, nullptr);
  if (pq_.PQsetnonblocking(handle_, 1) != 0) return broken("a connection was made ready");
  const Rows settings = TRY(read({.sql = "SELECT current_setting('synchronous_commit')"}));
  durable_commit_ = as_text(settings.rows.at(0).at(0));
  if (durable_commit_ == "off") durable_commit_ = "on";
  TRY(read({.sql = "SELECT set_config('statement_timeout', ?, false), set_config('default_transaction_read_only', ?, "
                   "false), set_config('synchronous_commit', ?, false), set_config('bytea_output', 'hex', false), "
                   "set_config('standard_conforming_strings', 'on', false)",
            .args = {fmt::format("{}ms", options_.statement_timeout.count()), mode_ == Mode::read ? "on" : "off",
                     mode_ == Mode::read ? durable_commit_ : "off"}}));
  if (mode_ == Mode::write && pq_.PQenterPipelineMode(handle_) != 1) return broken("a connection was made ready");
  return {};
}

bool Postgres::is_whole() {
  if (broken_ || !due_.empty()) return false;
  pollfd socket{.fd = pq_.PQsocket(handle_), .events = POLLIN, .revents = 0};
  if (::poll(&socket, 1, 0) > 0 && pq_.PQconsumeInput(handle_) != 1) return false;
  return pq_.PQstatus(handle_) == CONNECTION_OK;
}

const Numbered& Postgres::numbered(const std::string& sql) {
  if (const auto found = numbered_.find(sql); found != numbered_.end()) return found->second;
  if (numbered_.size() >= kNumbered) numbered_.clear();
  return numbered_.emplace(sql, number_places(sql)).first->second;
}

Error Postgres::broken(std::string_view doing) {
  broken_ = true;
  std::string why = one_line(pq_.PQerrorMessage(handle_));
  return Error{Code::unavailable,
               fmt::format("the connection to PostgreSQL broke while {}{}{}", doing, why.empty() ? "" : ": ", why)};
}

Error Postgres::refused(PGresult* result) const {
  const auto field = [&](int which) {
    const char* const text = pq_.PQresultErrorField(result, which);
    return std::string(text == nullptr ? "" : text);
  };
  const std::string state = field(PG_DIAG_SQLSTATE), why = one_line(field(PG_DIAG_MESSAGE_PRIMARY));
  const std::string kind = state.substr(0, 2);
  // Appendix A of PostgreSQL's manual.
  if (state == "57014") return Error{Code::deadline, fmt::format("PostgreSQL: {}", why)};
  if (state == "53100") return Error{Code::io, fmt::format("PostgreSQL: the disk is full: {}", why)};
  if (state == "25006" && mode_ == Mode::read)
    return Error{Code::invalid, fmt::format("SQL: query() only reads: {}", why)};
  if (kind == "22" || kind == "23") return Error{Code::invalid, fmt::format("the database refused a row: {}", why)};
  if (kind == "42" || kind == "0A") return Error{Code::internal, fmt::format("SQL: {}", why)};
  if (kind == "54") return Error{Code::too_large, fmt::format("PostgreSQL: {}", why)};
  if (kind == "58") return Error{Code::io, fmt::format("PostgreSQL: {}", why)};
  return Error{Code::unavailable, fmt::format("PostgreSQL: {}", why.empty() ? "no answer" : why)};
}

Status Postgres::wait(short events, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd socket{.fd = pq_.PQsocket(handle_), .events = events, .revents = 0};
    const int ready = ::poll(&socket, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return broken("it was waited for");
    if (Clock::now() >= deadline) {
      broken_ = true;
      return Error{Code::deadline, "PostgreSQL does not answer"};
    }
  }
}

Status Postgres::flush(Clock::time_point deadline) {
  while (true) {
    const int left = pq_.PQflush(handle_);
    if (left < 0) return broken("a request was sent");
    if (left == 0) return {};
    // A server that waits for us to read would never take the rest.
    TRY(wait(POLLIN | POLLOUT, deadline));
    if (pq_.PQconsumeInput(handle_) != 1) return broken("a request was sent");
  }
}

Result<PGresult*> Postgres::next(Clock::time_point deadline) {
  while (pq_.PQisBusy(handle_) != 0) {
    TRY(wait(POLLIN, deadline));
    if (pq_.PQconsumeInput(handle_) != 1) return broken("an answer was awaited");
  }
  return pq_.PQgetResult(handle_);
}

Status Postgres::check_places(const Statement& statement) {
  const std::size_t places = numbered(statement.sql).places;
  if (places == statement.args.size()) return {};
  return Error{Code::internal,
               fmt::format("SQL: {} arguments for {} places in: {}", statement.args.size(), places, statement.sql)};
}

Status Postgres::send(const Statement& statement, bool with_condition) {
  const Numbered& sql = numbered(statement.sql);
  std::vector<Argument> args;
  for (const Value& each : statement.args) args.push_back(argument(each));
  std::vector<Oid> types;
  std::vector<const char*> values;
  std::vector<int> lengths, formats;
  for (const Argument& each : args) {
    types.push_back(each.type);
    values.push_back(each.null ? nullptr : each.text.c_str());
    lengths.push_back(static_cast<int>(each.text.size()));
    formats.push_back(each.binary ? 1 : 0);
  }
  const std::string text = with_condition ? conditional(sql, kUnchanged) : sql.sql;
  if (pq_.PQsendQueryParams(handle_, text.c_str(), static_cast<int>(args.size()), types.data(), values.data(),
                            lengths.data(), formats.data(), /*text results*/ 0) != 1)
    return broken("a request was sent");
  return {};
}

void Postgres::take_rows(PGresult* result, Rows& rows) const {
  const int columns = pq_.PQnfields(result), count = pq_.PQntuples(result);
  if (rows.columns.empty())
    for (int i = 0; i < columns; ++i) rows.columns.emplace_back(pq_.PQfname(result, i));
  for (int r = 0; r < count; ++r) {
    Values& row = rows.rows.emplace_back();
    for (int i = 0; i < columns; ++i) {
      if (pq_.PQgetisnull(result, r, i) != 0) {
        row.emplace_back();
        continue;
      }
      const std::string_view text(pq_.PQgetvalue(result, r, i),
                                  static_cast<std::size_t>(pq_.PQgetlength(result, r, i)));
      row.push_back(value_of(pq_.PQftype(result, i), text));
    }
  }
}

Result<Rows> Postgres::read(const Statement& statement) {
  TRY(check_places(statement));
  TRY(send(statement));
  // Row by row, so that an answer without end does not fill our memory. (In pipeline mode
  // the next statement would inherit it.)
  if (mode_ == Mode::read) pq_.PQsetSingleRowMode(handle_);
  const auto deadline = [this] { return Clock::now() + patience(); };
  TRY(flush(deadline()));
  Rows rows;
  Status done;
  while (PGresult* const result = TRY(next(deadline()))) {
    const ExecStatusType status = pq_.PQresultStatus(result);
    if (status == PGRES_SINGLE_TUPLE || status == PGRES_TUPLES_OK) {
      if (done) take_rows(result, rows);
      if (rows.rows.size() > options_.max_rows)
        done = Error{Code::too_large, fmt::format("a query gives more than {} rows", options_.max_rows)};
    } else if (status != PGRES_COMMAND_OK && done) {
      done = refused(result);
    }
    pq_.PQclear(result);
    if (!done && done.error().code == Code::too_large) {
      broken_ = true;  // the rest of the answer goes with the connection
      break;
    }
  }
  TRY(done);
  return rows;
}

}  // namespace ashlar::store
