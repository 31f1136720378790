// Several generators, and who of them serves a model of a name. A name that several serve means the first of them; the
// others' model is called PLACE/NAME.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/counted_names.h"
#include "engine/embedder.h"
#include "engine/generator.h"

namespace ashlar::gateway {

// What stands in one need not be owned by it (borrowed()): then whoever made it sees to it that it outlives all.
struct Place {
  std::string name;  // "": its models have no second name
  std::shared_ptr<engine::Generator> generator;
  std::shared_ptr<engine::Embedder> embedder;  // null: none of its models embeds
  // Marked data that may come here, "sensitive"; nothing: any, for it stays in this process.
  std::optional<std::vector<std::string>> data_classes = {};
};

// The same as a pointer that owns nothing.
template <class T>
std::shared_ptr<T> borrowed(T* object) {
  return std::shared_ptr<T>(std::shared_ptr<void>(), object);
}

// Immutable but for an index of the names, which follows the generators' names_version(). Any thread.
class Places {
 public:
  explicit Places(std::vector<Place> all);

  const std::vector<Place>& all() const { return all_; }

  struct Found {
    const Place* place = nullptr;  // null: nobody serves it
    std::string model;             // as the place calls it
  };
  // A single place without a name is asked for whatever it is, and one of several for what nobody lists: it knows
  // adapters, and models of places behind it, by more names than it lists.
  Found find(const std::string& model) const;
  // Under the names that find() takes; none twice.
  std::vector<engine::ModelCard> models() const;
  // As CountedNames::names_version(), and other than that of any other Places.
  std::optional<std::uint64_t> version() const;

 private:
  struct Index {
    std::uint64_t version = 0;
    std::unordered_map<std::string, Found> names;
  };
  std::shared_ptr<const Index> index(std::uint64_t version) const;
  Found search(const std::string& model) const;
  Found unlisted(const std::string& model) const;

  const std::vector<Place> all_;
  std::vector<const engine::CountedNames*> counted_;  // of each; null: it does not count
  const std::uint64_t number_;                        // of all Places that were made
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Index> index_;  // GUARDED_BY(mutex_); null: none yet
};

}  // namespace ashlar::gateway
