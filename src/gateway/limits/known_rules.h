// The rules that apply to who asked before, so that they are not found anew for each request.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "gateway/limits/rules.h"

namespace ashlar::gateway {

// rules_for() costs more than all that is then counted. Any thread.
class KnownRules {
 public:
  // Points into `config`, which must live as long.
  std::shared_ptr<const std::vector<Applied>> find(const std::shared_ptr<const LimitsConfig>& config,
                                                   const Subject& subject, const std::string& model);

 private:
  static constexpr std::size_t kMost = 4096;  // askers; then it begins anew

  std::mutex mutex_;
  std::shared_ptr<const LimitsConfig> config_;  // GUARDED_BY(mutex_), as is the next
  std::unordered_map<std::string, std::shared_ptr<const std::vector<Applied>>> rules_;
};

}  // namespace ashlar::gateway
