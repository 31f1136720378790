// Copies of requests for a model whose answers nobody hears: how it would do, told beside what the clients got.
//
// A copy goes out once the client's own request was taken, on a thread of its own, less urgent than any client's, and
// below the limits: it costs the client neither time nor money. When too many run, when data is marked that the model
// may not see, when the client leaves or the server ends, it is dropped.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/generator.h"
#include "gateway/routing/deployment.h"
#include "gateway/routing/steering.h"

namespace ashlar::gateway {

struct ShadowOptions {
  engine::Generator* models = nullptr;  // who has the models that shadows are of; outlives it
  std::function<TimePoint()> now = Clock::now;
  bool own_thread = true;  // else somebody calls turn(): tests
};

// Any thread.
class Shadows {
 public:
  explicit Shadows(ShadowOptions options);
  // Copies under way are dropped.
  ~Shadows();

  void set_groups(const std::vector<Group>& groups);
  // Follows the answer of a request that is to be copied; null: it is not.
  std::shared_ptr<Tap> tap(const std::string& group, const engine::Request& request);
  // What was found since the route's shadow began. not_found: the route has none.
  Result<Json> report(const std::string& route) const;
  std::vector<std::string> routes() const;

  // Starts and compares what is due.
  void turn();

 private:
  class Core;
  class Copy;
  class Follower;
  std::shared_ptr<Core> core_;  // shared with the copies, which may outlive it
};

}  // namespace ashlar::gateway
