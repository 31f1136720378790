// The adapters of one model under their served names. They come and go while requests run: who holds one keeps it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "models/model.h"

namespace ashlar::engine {

struct ServedAdapter {
  std::string name, path;
  std::uint64_t number = 0;  // of this load, and of no other: keys and values of prompts are shared by it
  std::int64_t created = 0;  // seconds since 1970
  std::shared_ptr<const models::Adapter> adapter;
};

inline constexpr std::size_t kMostAdapters = 1024;

// Any thread. The model must outlive it and what it gave.
class AdapterShelf {
 public:
  explicit AdapterShelf(const models::Model& model) : model_(model) {}
  // Ends the loading that waits: its `done` is told so.
  ~AdapterShelf();

  // Loads and serves it, on the caller's thread. invalid: a name that is served, unless `replace`, or no name;
  // exhausted: too many are. Else as Model::load_adapter().
  Status add(const std::string& name, const std::string& path, bool replace);
  // The same on the shelf's own thread, one after the other; `done` is called there.
  void add_later(std::string name, std::string path, bool replace, std::function<void(Status)> done);
  // Requests that have it go on. not_found: it is not served.
  Status remove(const std::string& name);

  std::shared_ptr<const ServedAdapter> find(std::string_view name) const;  // null: none
  std::vector<std::shared_ptr<const ServedAdapter>> list() const;          // by name

 private:
  struct Order {
    std::string name, path;
    bool replace;
    std::function<void(Status)> done;
  };
  Status may_add(const std::string& name, bool replace) const;  // under the lock
  void work(std::stop_token stop);

  const models::Model& model_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const ServedAdapter>, std::less<>> served_;  // GUARDED_BY(mutex_)
  std::deque<Order> orders_;                                                         // GUARDED_BY(mutex_)
  std::condition_variable_any ordered_;
  std::jthread thread_;  // started with the first order
};

}  // namespace ashlar::engine
