// What the operations of this folder are written with.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <utility>

#include "api/admin.h"
#include "base/json_full.h"
#include "cli/admin/admin.h"

namespace ashlar::cli {

// Parts of schemas.
inline Json text(int most = 128) { return {{"type", "string"}, {"maxLength", most}}; }
inline Json texts(int most_items, int most = 256) {
  return {{"type", "array"}, {"items", text(most)}, {"maxItems", most_items}};
}
inline Json words(std::initializer_list<const char*> all) {
  Json list = Json::array();
  for (const char* each : all) list.push_back(each);
  return {{"type", "string"}, {"enum", std::move(list)}};
}
inline Json whole(std::int64_t least, std::int64_t most) {
  return {{"type", "integer"}, {"minimum", least}, {"maximum", most}};
}
inline Json time_or_null() { return {{"type", Json::array({"string", "null"})}, {"format", "date-time"}}; }
inline Json list_of(Json item) { return {{"type", "array"}, {"items", std::move(item)}}; }
inline Json object(Json properties) { return {{"type", "object"}, {"properties", std::move(properties)}}; }
// What is sent: nothing but these members.
inline Json body(Json properties, std::initializer_list<const char*> required = {}) {
  Json out = object(std::move(properties));
  out["additionalProperties"] = false;
  if (required.size() > 0) {
    out["required"] = Json::array();
    for (const char* each : required) out["required"].push_back(each);
  }
  return out;
}
inline Json parameter(const char* name, const char* description, Json schema) {
  return {{"name", name}, {"description", description}, {"required", false}, {"schema", std::move(schema)}};
}

// `run` of an operation that is done when it returns.
inline std::function<void(const api::AdminCall&, api::AdminDone)> at_once(
    std::function<api::Outcome<Json>(const api::AdminCall&)> action) {
  return [action = std::move(action)](const api::AdminCall& call, const api::AdminDone& done) { done(action(call)); };
}

inline api::Fault fault(Error error) { return api::Fault(std::move(error)); }

// An outcome as our functions give it: TRY_FAULT(result) gives the value or returns the fault.
#define TRY_FAULT(expression)                                                             \
  ({                                                                                      \
    auto try_fault_result_ = (expression);                                                \
    if (!try_fault_result_) [[unlikely]]                                                  \
      return std::unexpected(::ashlar::api::Fault(std::move(try_fault_result_).error())); \
    *std::move(try_fault_result_);                                                        \
  })

inline api::Fault not_kept() {
  return fault({Code::unavailable, "this server keeps no state: its database could not be opened at start"});
}

// What a change writes to the event log.
inline void tell(const AdminParts& parts, const api::AdminCall& call, std::string kind, std::string subject,
                 std::string message, Json details = Json::object()) {
  if (parts.events == nullptr) return;
  parts.events->write({.kind = std::move(kind),
                       .subject = std::move(subject),
                       .message = std::move(message),
                       .actor = api::actor_of(call.who),
                       .details = std::move(details)});
}

}  // namespace ashlar::cli
