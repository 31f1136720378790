// Which members of a group do so much worse than the others that they are left alone for a while, by the rules of
// Envoy's outlier detection: consecutive failures at once, the success rate and the share of failures in each sweep.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::gateway {

struct OutlierOptions {
  int consecutive = 5;  // failures; 0: this rule is off
  std::chrono::milliseconds sweep{10'000};
  std::chrono::milliseconds base{30'000}, most{300'000};  // base times how often it was ejected
  double most_share = 0.1;                                // of a group, but one in any case
  int success_hosts = 5, success_calls = 100;
  double success_deviations = 1.9;  // below the mean
  double failure_share = 0.85;
  int failure_hosts = 5, failure_calls = 50;
};

// The members of one group. The last one that is not ejected stays, so a group of one never loses it: that is the
// breaker's to decide. Where the last one fails as the others did, they come back in its place: what is known of them
// is older. One that answers is back at once. Not thread-safe.
class Outliers {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Change {
    std::string member;
    bool ejected;
    std::string why;
  };

  explicit Outliers(OutlierOptions options) : options_(options) {}

  void add(const std::string& member) { members_.try_emplace(member); }
  void remove(const std::string& member) { members_.erase(member); }
  void done(const std::string& member, bool good, TimePoint now);
  // Returns whose time is over, and every `sweep` compares all. Call it now and then.
  void turn(TimePoint now);
  bool ejected(const std::string& member) const;
  std::vector<Change> changes();

 private:
  struct Member {
    int failures_in_row = 0;
    int calls = 0, good = 0;  // since the last sweep
    int times = 0;            // ejected, less one for each good sweep
    bool out = false;
    TimePoint back{};
  };
  using Entry = std::pair<const std::string, Member>;

  bool may_eject() const;
  bool is_last(const Member& member) const;
  void come_back(Entry& entry, std::string why);
  void eject(Entry& entry, std::string why, TimePoint now);
  void sweep(TimePoint now);

  OutlierOptions options_;
  std::map<std::string, Member> members_;
  TimePoint swept_{};
  std::vector<Change> changes_;
};

}  // namespace ashlar::gateway
