// Reading a request's JSON, member by member: null counts as absent, unknown
// members are ignored, a wrong type or range is a fault that names the member.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/errors.h"
#include "base/json.h"

namespace ashlar::api {

// Parses a request's body: 400 unless it is a JSON object within our limits, 415 where it is compressed.
Outcome<Json> parse_body(const net::HttpRequest& request);

struct Range {
  double low = std::numeric_limits<double>::lowest();
  double high = std::numeric_limits<double>::max();
  bool above_low = false;  // `low` itself is outside
};

// Each read leaves its target alone if the member is absent. The first fault is
// kept and later reads still run, so that a list of reads needs one check:
//
//   Fields fields(body);
//   fields.read("temperature", sampling.temperature, {0, 2});
//   fields.read("stream", stream);
//   TRY(fields.done());
//
// Borrows the object.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  // The member, or null if it is absent or null.
  const Json* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  void read(std::string_view name, bool& out);
  void read(std::string_view name, int& out, Range range = {});
  void read(std::string_view name, std::int64_t& out, Range range = {});
  void read(std::string_view name, float& out, Range range = {});
  void read(std::string_view name, std::string& out, std::size_t max_bytes = 1 << 20);
  // A list of token ids, each in [0, vocabulary).
  void read_ids(std::string_view name, std::vector<std::int32_t>& out, int vocabulary);
  // A number of seconds, or a text such as "5m"; below 0: -1 ms.
  void read(std::string_view name, std::optional<std::chrono::milliseconds>& out);
  const Json* read_object(std::string_view name);
  const Json* read_array(std::string_view name);

  // Faults if the member is there (and, for a bool, true; for a list or string, not empty).
  void refuse(std::string_view name);

  void fail(Fault fault);
  Outcome<void> done() const;

 private:
  const Json& object_;
  std::optional<Fault> fault_;
};

// Token ids from a JSON array; `param` names it in a fault.
Outcome<std::vector<std::int32_t>> read_token_ids(const Json& array, std::string_view param, int vocabulary);
// "string", "array", "number"..., for sentences.
std::string_view kind(const Json& json);

}  // namespace ashlar::api
