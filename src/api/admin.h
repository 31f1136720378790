// The admin API: one table of operations, from which the routes are served and the
// OpenAPI document is made, so that neither knows what the other does not.
#pragma once

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
};

// Called once, on any thread.
using AdminDone = std::function<void(Outcome<Json>)>;

struct AdminOperation {
  std::string method;  // "GET", "POST", "PUT", "PATCH", "DELETE"
  std::string path;    // "/admin/v1/keys/{id}"
  gateway::Scope scope = gateway::Scope::admin;
  std::string id;       // "showKey": OpenAPI's operationId
  std::string tag;      // the family that documents list it under: "keys"
  std::string summary;  // a line
  Json parameters;      // of the query: a list of {name, description, schema}; null: none
  Json body;            // JSON Schema of what is sent; null: nothing is
  Json answer;          // and of the answer
  // Runs on a thread that may wait for disks and databases, and calls `done` once.
  std::function<void(const AdminCall&, AdminDone)> run;
};

}  // namespace ashlar::api
