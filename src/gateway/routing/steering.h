// Who decides between the versions that a group has on trial, and learns how they fare. The router asks; rollout/
// answers.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/generator.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

// A group's deployment on trial. A request that is not for it never gets there, fallbacks included; one that is for it
// goes to the others where it is out, busy or fails.
struct Split {
  std::string canary;   // the deployment's name
  bool chosen = false;  // this request is for it
  std::string version;  // apart from others in the response cache
};

// How an attempt at a deployment ended.
struct AttemptEnd {
  enum class How {
    good,
    fault,    // the deployment's own
    refused,  // it found fault with the request: whose fault it is, only a comparison tells
  };
  const std::string& group;
  const std::string& deployment;
  const engine::Request& request;
  How how;
  std::optional<std::chrono::nanoseconds> first_token;  // of a good one
  double seconds_per_token = 0;                         // the mean between its tokens; 0: too few of them
};

// Follows one answer as its client gets it. Calls come one at a time, under the request's own lock: they may not wait,
// nor call the router. It dies with the request.
class Tap {
 public:
  virtual ~Tap() = default;
  virtual void started() = 0;  // a deployment took the request; at most once
  virtual void said(const engine::Event& event) = 0;
  // How the first attempt did, and whose it was: once, before or after what was said last. Another may have answered
  // where it was not good.
  virtual void first(const std::string& deployment, bool good) { (void)deployment, (void)good; }
};

// Any thread. Nothing here may call the router or wait.
class Steering {
 public:
  virtual ~Steering() = default;
  // nothing: the group has no version on trial.
  virtual std::optional<Split> split(const std::string& group, const engine::Request& request) = 0;
  // Whether who was chosen for it may still go there: it may have been called back meanwhile.
  virtual bool takes(const std::string& group) const = 0;
  // Of each request the first attempt alone: what follows a failure is no fair sample.
  virtual void ended(const AttemptEnd& end) = 0;
  // Null: nobody wants to follow. `request` as its deployments get it, but for the model's name.
  virtual std::shared_ptr<Tap> tap(const std::string& group, const engine::Request& request) = 0;
  // The groups are these from now on. Before the first request, and while others run.
  virtual void set_groups(const std::vector<Group>& groups) = 0;
};

}  // namespace ashlar::gateway
