// Batches of writes in pipeline mode: see postgres.h.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "store/postgres.h"

namespace ashlar::store {
namespace {

constexpr std::chrono::milliseconds kUnhurried = std::chrono::hours(24);

}  // namespace

Status Postgres::send_aside(const Statement& statement, std::size_t write) {
  TRY(send(statement));
  due_.push_back({.kind = Due::Kind::aside, .write = write});
  return {};
}

Status Postgres::send_sync(std::size_t write) {
  if (pq_.PQpipelineSync(handle_) != 1) return broken("a write was sent");
  due_.push_back({.kind = Due::Kind::sync, .write = write});
  return {};
}

Status Postgres::send_write(const Write& write, std::size_t at) {
  if (write.unhurried) TRY(send_aside({.sql = "SELECT set_config('statement_timeout', '0', true)"}, at));
  for (std::size_t i = 0; i < write.statements.size(); ++i) {
    TRY(send(write.statements[i], write.statements[i].if_unchanged.has_value()));
    due_.push_back({.kind = Due::Kind::statement, .write = at, .statement = i});
  }
  return send_sync(at);
}

// A transaction that writes to the server's log and waits until it is on the disk.
Status Postgres::send_durable_mark(std::size_t none) {
  TRY(send_aside(
      {.sql = "SELECT set_config('synchronous_commit', ?, true), pg_logical_emit_message(true, 'ashlar', '')",
       .args = {durable_commit_}},
      none));
  return send_sync(none);
}

void Postgres::note(Batch& batch, const Due& due, PGresult* result) {
  const ExecStatusType status = pq_.PQresultStatus(result);
  const bool fine = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
  // What comes behind an error in its list is not run at all.
  if (status == PGRES_PIPELINE_ABORTED) return;
  if (due.write == batch.writes.size()) {
    if (!fine) batch.not_durable = refused(result);
    return;
  }
  Progress& progress = batch.progress[due.write];
  if (!fine) {
    const char* const text = pq_.PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char* const state = pq_.PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const std::string_view said(text == nullptr ? "" : text), kind(state == nullptr ? "" : state);
    // Said by libpq of a lost connection, or by a server that goes away: whether the list was
    // written is not known.
    if (kind.empty() || kind.starts_with("57P")) {
      progress.lost = one_line(text == nullptr ? pq_.PQerrorMessage(handle_) : text);
      return;
    }
    if (!progress.error) progress.error = refused(result);
    progress.again = kind == "40001" || kind == "40P01";
    if (due.kind != Due::Kind::statement) return;
    const Statement& statement = batch.writes[due.write]->statements[due.statement];
    if (statement.if_unchanged && said.find(kUnchanged) != std::string_view::npos)
      progress.error = *statement.if_unchanged;
    return;
  }
  if (due.kind != Due::Kind::statement) return;
  const Statement& statement = batch.writes[due.write]->statements[due.statement];
  const bool returns = numbered(statement.sql).returns;
  Rows& rows = progress.rows.emplace_back();
  if (status == PGRES_TUPLES_OK && statement.if_unchanged && !returns && pq_.PQntuples(result) == 1) {
    const std::string_view count(pq_.PQgetvalue(result, 0, 0));
    std::from_chars(count.data(), count.data() + count.size(), rows.changed);
    return;
  }
  if (status == PGRES_TUPLES_OK) {
    take_rows(result, rows);
    if (returns) rows.changed = static_cast<std::int64_t>(rows.rows.size());
    return;
  }
  const std::string_view count(pq_.PQcmdTuples(result));
  std::from_chars(count.data(), count.data() + count.size(), rows.changed);
}

Status Postgres::read_due(Batch& batch) {
  while (!due_.empty()) {
    const Due due = due_.front();
    PGresult* const result = TRY(next(Clock::now() + batch.patience));
    if (result == nullptr) {
      if (!is_connected() || due.kind == Due::Kind::sync) return broken("a write was under way");
      due_.pop_front();
      continue;
    }
    if (pq_.PQresultStatus(result) == PGRES_PIPELINE_SYNC)
      due_.pop_front();
    else
      note(batch, due, result);
    pq_.PQclear(result);
  }
  return {};
}

void Postgres::write(std::vector<Write*>& writes, bool last) {
  Batch batch{.writes = writes,
              .progress = std::vector<Progress>(writes.size()),
              .not_durable = std::nullopt,
              .patience = patience()};
  Status alive;
  for (std::size_t i = 0; i < writes.size() && alive; ++i) {
    Progress& progress = batch.progress[i];
    for (const Statement& each : writes[i]->statements)
      if (const auto checked = check_places(each); !checked) progress.error = checked.error();
    if (progress.error) continue;
    if (writes[i]->unhurried) batch.patience = kUnhurried;
    progress.sent = true;
    alive = send_write(*writes[i], i);
  }
  if (alive) alive = send_durable_mark(writes.size());
  if (alive) alive = flush(Clock::now() + batch.patience);
  if (alive) alive = read_due(batch);
  for (std::size_t i = 0; i < writes.size(); ++i) {
    Progress& progress = batch.progress[i];
    if (progress.again && alive && !last) continue;
    if (progress.error)
      writes[i]->outcome = *std::move(progress.error);
    else if (!progress.sent)
      writes[i]->outcome = alive.error();
    else if (!alive || batch.not_durable || !progress.lost.empty())
      writes[i]->outcome = Error{Code::unavailable, fmt::format("{}; the write may be there or not",
                                                                !alive              ? alive.error().message
                                                                : batch.not_durable ? batch.not_durable->message
                                                                                    : progress.lost)};
    else
      writes[i]->outcome = std::move(progress.rows);
  }
}

}  // namespace ashlar::store
