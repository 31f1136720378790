#include "gateway/identity/key_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "base/json_full.h"
#include "gateway/identity/network.h"
#include "gateway/identity/rows.h"
#include "store/migrations.h"

namespace ashlar::gateway {
namespace {

using store::Blob;
using store::Value;
using store::Values;

constexpr int kPage = 20'000;  // rows of one query
constexpr std::chrono::minutes kRemembered{10};  // a rotation that has ended; nobody's request waits for longer
constexpr std::size_t kMaxMetadata = 16 << 10, kMaxList = 1000, kMaxPattern = 256;

const store::Schema kSchema{
    .room = "keys",
    .steps = {{R"(CREATE TABLE api_keys (
  serial $IDENTITY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, prefix TEXT NOT NULL,
  user_name TEXT NOT NULL, team TEXT NOT NULL, tenant TEXT NOT NULL,
  roles TEXT NOT NULL, models TEXT NOT NULL, networks TEXT NOT NULL, tags TEXT NOT NULL, metadata TEXT NOT NULL,
  output_cap BIGINT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, blocked BIGINT NOT NULL,
  hash $BYTES NOT NULL UNIQUE, previous_hash $BYTES, previous_until BIGINT NOT NULL))",
               "CREATE TABLE api_keys_generation (one BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
               "INSERT INTO api_keys_generation (one, value) VALUES (1, 0)"},
              {"ALTER TABLE api_keys ADD COLUMN min_priority BIGINT NOT NULL DEFAULT 0"}}};

constexpr std::string_view kColumns =
    "id, name, prefix, user_name, team, tenant, roles, models, networks, tags, metadata, output_cap, created_at, "
    "expires_at, blocked, hash, previous_hash, previous_until, min_priority";

Blob blob_of(const KeyHash& hash) { return {std::string(hash.begin(), hash.end())}; }

std::optional<KeyHash> read_hash(const Value& value) {
  const std::string& bytes = store::as_bytes(value);
  KeyHash out;
  if (bytes.size() != out.size()) return std::nullopt;
  std::memcpy(out.data(), bytes.data(), out.size());
  return out;
}

Result<KeyRecord> read_record(const Values& row) {
  KeyRecord out;
  out.id = store::as_text(row[0]);
  out.name = store::as_text(row[1]);
  out.prefix = store::as_text(row[2]);
  out.user = store::as_text(row[3]);
  out.team = store::as_text(row[4]);
  out.tenant = store::as_text(row[5]);
  out.roles = TRY(parse_roles(read_list(row[6])));
  out.models = read_list(row[7]);
  out.networks = read_list(row[8]);
  out.tags = read_tags(row[9]);
  out.metadata = store::as_text(row[10]);
  out.output_cap = static_cast<int>(store::as_int(row[11]));
  out.created_at = store::as_int(row[12]);
  out.expires_at = store::as_int(row[13]);
  out.blocked = store::as_int(row[14]) != 0;
  const auto hash = read_hash(row[15]);
  if (!hash) return Error{Code::corrupt, fmt::format("the key {} has no hash in the database", out.id)};
  out.hash = *hash;
  out.previous_hash = read_hash(row[16]);
  out.previous_until = store::as_int(row[17]);
  out.min_priority = static_cast<int>(store::as_int(row[18]));
  return out;
}

Status check_list(const std::vector<std::string>& list, std::string_view what, std::size_t longest) {
  if (list.size() > kMaxList) return Error{Code::invalid, fmt::format("a key has at most {} {}", kMaxList, what)};
  for (const std::string& each : list)
    if (each.empty() || each.size() > longest)
      return Error{Code::invalid, fmt::format("each of the {} is 1 to {} bytes long", what, longest)};
  return {};
}

Status check_wishes(const KeyRecord& record, std::int64_t now) {
  if (!record.name.empty()) TRY(check_name(record.name, "the name"));
  if (!record.user.empty()) TRY(check_name(record.user, "the user"));
  if (!record.team.empty()) TRY(check_name(record.team, "the team"));
  if (!record.tenant.empty()) TRY(check_tenant(record.tenant, "the tenant"));
  if (record.roles.empty())
    return Error{Code::invalid, "a key needs a role: admin, operator, auditor, developer or app"};
  TRY(check_list(record.models, "models", kMaxPattern));
  for (const std::string& model : record.models) TRY(check_name(model.substr(0, 128), "a model's pattern"));
  TRY(check_list(record.networks, "networks", 64));
  TRY(parse_networks(record.networks));
  if (record.tags.size() > 64) return Error{Code::invalid, "a key has at most 64 tags"};
  for (const auto& [name, value] : record.tags) {
    TRY(check_name(name, "a tag's name"));
    TRY(check_name(value, fmt::format("the tag '{}'", name)));
  }
  if (record.metadata.size() > kMaxMetadata) return Error{Code::too_large, "the metadata is larger than 16 KiB"};
  const auto metadata = parse_json(record.metadata, {.depth = 16});
  if (!metadata || !metadata->is_object()) return Error{Code::invalid, "the metadata is no JSON object"};
  if (record.output_cap < 0) return Error{Code::invalid, "the output cap is a number of tokens, or 0 for none"};
  if (record.min_priority > 0 || record.min_priority < kMostUrgent)
    return Error{Code::invalid, fmt::format("the least priority of a key's requests is between {} and 0", kMostUrgent)};
  if (record.expires_at != 0 && record.expires_at <= now)
    return Error{Code::invalid, "the key would have expired already"};
  return {};
}

Error rotated_by_others(const std::string& id) {
  return {Code::cancelled,
          fmt::format("the key {} was rotated or deleted by somebody else at the same time: nothing was changed here; "
                      "whoever was first has the new secret",
                      id)};
}

}  // namespace

std::int64_t system_unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Result<std::unique_ptr<KeyStore>> KeyStore::open(store::Database& database,
                                                 std::function<std::int64_t()> unix_seconds) {
  TRY(store::migrate(database, std::span(&kSchema, 1)));
  return std::unique_ptr<KeyStore>(new KeyStore(database, std::move(unix_seconds)));
}

Result<ShownKey> KeyStore::create(KeyRecord record) {
  const std::int64_t now = unix_seconds_();
  TRY(check_wishes(record, now));
  NewApiKey key = make_api_key();
  record.id = "key_" + random_base62(12);
  record.prefix = key.prefix;
  record.hash = key.hash;
  record.previous_hash.reset();
  record.previous_until = 0;
  record.created_at = now;
  TRY(database_.transact(
      {{.sql = fmt::format("INSERT INTO api_keys ({}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                           kColumns),
        .args = {record.id, record.name, record.prefix, record.user, record.team, record.tenant,
                 list_json(names(record.roles)), list_json(record.models), list_json(record.networks),
                 tags_json(record.tags), record.metadata, std::int64_t{record.output_cap}, record.created_at,
                 record.expires_at, std::int64_t{record.blocked}, blob_of(record.hash), std::monostate{},
                 std::int64_t{0}, std::int64_t{record.min_priority}}},
       next_keys_generation()}));
  return ShownKey{std::move(key.text), std::move(record)};
}

Result<ShownKey> KeyStore::rotate(std::string_view which, std::chrono::seconds overlap, Clock::time_point asked) {
  KeyRecord record = TRY(find(which));
  const std::string id = record.id;
  if (!begin_rotation(id, asked)) return rotated_by_others(id);
  auto shown = rotate(std::move(record), overlap);
  end_rotation(id, shown.has_value());
  return shown;
}

bool KeyStore::begin_rotation(const std::string& id, Clock::time_point asked) {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  std::erase_if(rotations_, [&](const auto& each) { return each.second && now - *each.second > kRemembered; });
  const auto [found, first] = rotations_.try_emplace(id, std::nullopt);
  if (!first && (!found->second || *found->second >= asked)) return false;
  found->second.reset();
  return true;
}

void KeyStore::end_rotation(const std::string& id, bool done) {
  const std::lock_guard lock(mutex_);
  if (done)
    rotations_[id] = Clock::now();
  else
    rotations_.erase(id);
}

Result<ShownKey> KeyStore::rotate(KeyRecord record, std::chrono::seconds overlap) {
  const std::int64_t now = unix_seconds_();
  if (record.expires_at != 0 && record.expires_at <= now)
    return Error{Code::invalid, fmt::format("the key {} has expired: create a new one", record.id)};
  NewApiKey key = make_api_key();
  // On the hash that was read: of two processes at once, one is told.
  TRY(database_.transact(
      {{.sql =
            "UPDATE api_keys SET hash = ?, prefix = ?, previous_hash = ?, previous_until = ? WHERE id = ? AND hash = ?",
        .args = {blob_of(key.hash), key.prefix, blob_of(record.hash), now + overlap.count(), record.id,
                 blob_of(record.hash)},
        .if_unchanged = rotated_by_others(record.id)},
       next_keys_generation()}));
  record.previous_hash = record.hash;
  record.previous_until = now + overlap.count();
  record.hash = key.hash;
  record.prefix = key.prefix;
  return ShownKey{std::move(key.text), std::move(record)};
}

Status KeyStore::change(std::string_view id, std::string sql, Values args) {
  TRY(database_.transact({{.sql = std::move(sql),
                           .args = std::move(args),
                           .if_unchanged = Error{Code::not_found, fmt::format("the key {} was deleted meanwhile", id)}},
                          next_keys_generation()}));
  return {};
}

Status KeyStore::set_blocked(std::string_view which, bool blocked) {
  const KeyRecord record = TRY(find(which));
  return change(record.id, "UPDATE api_keys SET blocked = ? WHERE id = ?", {std::int64_t{blocked}, record.id});
}

Result<KeyRecord> KeyStore::edit(std::string_view which, const std::function<Status(KeyRecord&)>& edit) {
  const auto wishes_of = [](const KeyRecord& record) -> Values {
    return {record.name,
            record.user,
            record.team,
            record.tenant,
            list_json(names(record.roles)),
            list_json(record.models),
            list_json(record.networks),
            tags_json(record.tags),
            record.metadata,
            std::int64_t{record.output_cap},
            std::int64_t{record.min_priority},
            record.expires_at,
            std::int64_t{record.blocked}};
  };
  for (int i = 0;; ++i) {
    const KeyRecord before = TRY(find(which));
    KeyRecord record = before;
    TRY(edit(record));
    // An expiry that has passed may stay.
    const std::int64_t now = unix_seconds_();
    TRY(check_wishes(record, record.expires_at == before.expires_at ? std::min(now, record.expires_at - 1) : now));
    // On what was read: a block that comes at the same time is not undone.
    Values args = wishes_of(record), old = wishes_of(before);
    args.emplace_back(record.id);
    args.insert(args.end(), old.begin(), old.end());
    const auto written = database_.transact(
        {{.sql = "UPDATE api_keys SET name = ?, user_name = ?, team = ?, tenant = ?, roles = ?, models = ?, networks = "
                 "?, tags = ?, metadata = ?, output_cap = ?, min_priority = ?, expires_at = ?, blocked = ? WHERE id = "
                 "? AND name = ? AND "
                 "user_name = ? AND team = ? AND tenant = ? AND roles = ? AND models = ? AND networks = ? AND tags = ? "
                 "AND metadata = ? AND output_cap = ? AND min_priority = ? AND expires_at = ? AND blocked = ?",
          .args = std::move(args),
          .if_unchanged = Error{Code::cancelled, fmt::format("the key {} is being changed by others", record.id)}},
         next_keys_generation()});
    if (written) return record;
    if (written.error().code != Code::cancelled || i == 5) return std::unexpected(written.error());
  }
}

Status KeyStore::remove(std::string_view which) {
  const KeyRecord record = TRY(find(which));
  return change(record.id, "DELETE FROM api_keys WHERE id = ?", {record.id});
}

Result<KeyRecord> KeyStore::find(std::string_view which) {
  const std::string text(which.substr(0, 256));
  auto found = TRY(select("id = ?", {text}));
  if (const Blob hash = blob_of(hash_key(which)); found.empty())
    found = TRY(select("prefix = ? OR hash = ? OR previous_hash = ?", {text, hash, hash}));
  if (found.empty()) found = TRY(select("name = ?", {text}));
  if (found.empty())
    return Error{Code::not_found,
                 fmt::format("no key is called '{}': `ashlar key list` shows them", text.substr(0, 64))};
  if (found.size() > 1)
    return Error{Code::invalid, fmt::format("{} keys are called '{}': say which by its id, as {}", found.size(),
                                            text.substr(0, 64), found.front().id)};
  return std::move(found.front());
}

Result<std::vector<KeyRecord>> KeyStore::select(std::string_view where, const Values& args) {
  std::vector<KeyRecord> out;
  std::int64_t after = 0;
  while (true) {
    Values all = args;
    all.emplace_back(after);
    const auto rows = TRY(database_.query(
        fmt::format("SELECT {}, serial FROM api_keys WHERE ({}) AND serial > ? ORDER BY serial LIMIT {}", kColumns,
                    where, kPage),
        std::move(all)));
    for (const Values& row : rows.rows) out.push_back(TRY(read_record(row)));
    if (std::ssize(rows.rows) < kPage) return out;
    after = store::as_int(rows.rows.back().back());
  }
}

Result<std::vector<KeyRecord>> KeyStore::list() { return select("1 = 1", {}); }

Result<std::int64_t> KeyStore::generation() {
  const auto rows = TRY(database_.query("SELECT value FROM api_keys_generation WHERE one = 1"));
  return rows.rows.empty() ? 0 : store::as_int(rows.rows.front().front());
}

}  // namespace ashlar::gateway
