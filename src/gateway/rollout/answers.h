// Which version gave an answer, for whoever says later how good it was.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>

#include "engine/generator.h"

namespace ashlar::gateway {

struct KeptAnswer {
  std::string route, version;
  bool canary = false;
  std::string tenant, key, user;  // who asked
  engine::Clock::time_point at{};
  bool by_client = false, by_judge = false;  // who has said how good it was: each counts once
};

// The last kMost answers of the last day, by what their clients call them. Not thread-safe.
class KeptAnswers {
 public:
  static constexpr std::size_t kMost = 50'000;
  static constexpr std::chrono::hours kKept{24};

  // A name that is there already stays whose it was.
  void keep(const std::string& name, KeptAnswer answer);
  KeptAnswer* find(const std::string& name, engine::Clock::time_point now);  // null: it is not known

 private:
  std::unordered_map<std::string, KeptAnswer> all_;
  std::deque<std::string> order_;
};

}  // namespace ashlar::gateway
