#include "gateway/limits/known_rules.h"

#include <cstdint>
#include <string_view>
#include <utility>

namespace ashlar::gateway {

std::shared_ptr<const std::vector<Applied>> KnownRules::find(const std::shared_ptr<const LimitsConfig>& config,
                                                             const Subject& subject, const std::string& model) {
  std::string asker;
  const auto add = [&](std::string_view part) {
    const auto size = static_cast<std::uint32_t>(part.size());  // so that no two askers are written alike
    asker.append(reinterpret_cast<const char*>(&size), sizeof size).append(part);
  };
  asker.reserve(256);
  for (const std::string* part : {&subject.key, &subject.user, &subject.team, &subject.tenant, &model}) add(*part);
  for (const auto& [tag, value] : subject.tags) {
    add(tag);
    add(value);
  }
  {
    const std::lock_guard lock(mutex_);
    if (config_ == config)
      if (const auto found = rules_.find(asker); found != rules_.end()) return found->second;
  }
  auto made = std::make_shared<const std::vector<Applied>>(rules_for(*config, subject, model));
  const std::lock_guard lock(mutex_);
  if (config_ != config || rules_.size() >= kMost) {
    rules_.clear();
    config_ = config;
  }
  rules_[std::move(asker)] = made;
  return made;
}

}  // namespace ashlar::gateway
