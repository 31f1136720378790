// The admin API: one table of operations, from which the routes are served and the
// OpenAPI document is made, so that neither knows what the other does not.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api/errors.h"
#include "base/json_full.h"  // by value
#include "gateway/identity/identity.h"

namespace ashlar::api {

struct AdminCall {
  std::map<std::string, std::string> path;   // "{id}" of the template, decoded
  std::map<std::string, std::string> query;  // decoded
  Json body;                                 // an object that fits the operation's schema; null: none was sent
  gateway::Who who;                          // may do it: the scope was checked
  std::chrono::steady_clock::time_point came = std::chrono::steady_clock::now();
};

// Who asked, for the event log: the key's id, or "loopback" where there are no keys.
std::string actor_of(const gateway::Who& who);

// Called once, on any thread, and before what the operation works on dies.
using AdminDone = std::function<void(Outcome<Json>)>;

struct AdminOperation {
  std::string method;  // "GET", "POST", "PUT", "PATCH", "DELETE"
  std::string path;    // "/admin/v1/keys/{id}"
  gateway::Scope scope = gateway::Scope::admin;
  std::string id;       // "showKey": OpenAPI's operationId
  std::string tag;      // the family that documents list it under: "keys"
  std::string summary;  // a line
  Json parameters;      // of the query: a list of {name, description, schema}; null: none
  // JSON Schema of what is sent, as far as api/schema.h reads it; null: nothing is. A member that nothing requires
  // makes a body that may be left out.
  Json body;
  Json answer;  // and of the answer
  // Runs on a thread that may wait for disks and databases, and calls `done` once.
  std::function<void(const AdminCall&, AdminDone)> run;
  // Of one that changes something: it is written to the event log, by its id and whom it was about, once it has run.
  // false: run() writes an event that says more.
  bool audited = true;
};

}  // namespace ashlar::api
