#include "gateway/rollout/rollout_store.h"

namespace ashlar::gateway {

using store::as_int;
using store::as_text;

const store::Schema& rollout_schema() {
  static const store::Schema schema{
      .room = "rollouts",
      .steps = {{"CREATE TABLE rollouts (route TEXT PRIMARY KEY, version TEXT NOT NULL, state TEXT NOT NULL, step "
                 "BIGINT NOT NULL, "
                 "since_ms BIGINT NOT NULL, why TEXT NOT NULL, baseline TEXT NOT NULL, revision BIGINT NOT NULL)",
                 "CREATE TABLE rollout_outcomes (route TEXT NOT NULL, version TEXT NOT NULL, outcome TEXT NOT NULL, "
                 "why TEXT NOT NULL, at_ms BIGINT NOT NULL, PRIMARY KEY (route, version))"}}};
  return schema;
}

Result<std::vector<RolloutRow>> read_rollouts(store::Database& database) {
  const auto found =
      TRY(database.query("SELECT route, version, state, step, since_ms, why, baseline, revision FROM rollouts"));
  std::vector<RolloutRow> out;
  for (const auto& row : found.rows)
    out.push_back({.route = as_text(row[0]),
                   .version = as_text(row[1]),
                   .state = as_text(row[2]),
                   .step = as_int(row[3]),
                   .since_ms = as_int(row[4]),
                   .why = as_text(row[5]),
                   .baseline = as_text(row[6]),
                   .revision = as_int(row[7])});
  return out;
}

Result<RolloutOutcomes> read_rollout_outcomes(store::Database& database) {
  const auto found = TRY(database.query("SELECT route, version, outcome, why FROM rollout_outcomes"));
  RolloutOutcomes out;
  for (const auto& row : found.rows)
    out[{as_text(row[0]), as_text(row[1])}] = {.outcome = as_text(row[2]), .why = as_text(row[3])};
  return out;
}

Status write_rollout(store::Database& database, const RolloutRow& row) {
  std::vector<store::Statement> statements;
  statements.push_back(
      {.sql = "INSERT INTO rollouts (route, version, state, step, since_ms, why, baseline, revision) "
              "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (route) DO UPDATE SET version = excluded.version, "
              "state = excluded.state, step = excluded.step, since_ms = excluded.since_ms, why = excluded.why, "
              "baseline = excluded.baseline, revision = excluded.revision WHERE rollouts.revision < excluded.revision",
       .args = {row.route, row.version, row.state, row.step, row.since_ms, row.why, row.baseline, row.revision},
       .if_unchanged = Error{Code::exhausted, "another server has changed this rollout"}});
  if (row.state == "promoted" || row.state == "rolled_back")
    statements.push_back(
        {.sql = "INSERT INTO rollout_outcomes (route, version, outcome, why, at_ms) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (route, version) DO UPDATE SET outcome = excluded.outcome, why = excluded.why, "
                "at_ms = excluded.at_ms",
         .args = {row.route, row.version, row.state, row.why, row.since_ms}});
  else
    statements.push_back(
        {.sql = "DELETE FROM rollout_outcomes WHERE route = ? AND version = ?", .args = {row.route, row.version}});
  TRY(database.transact(std::move(statements)));
  return {};
}

}  // namespace ashlar::gateway
