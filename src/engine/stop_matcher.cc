#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace ashlar::engine {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& string : strings_) {
    std::vector<std::size_t>& failure = failure_.emplace_back(string.size() + 1, 0);
    std::size_t matched = 0;
    for (std::size_t i = 1; i < string.size(); ++i) {
      while (matched > 0 && string[matched] != string[i]) matched = failure[matched];
      if (string[matched] == string[i]) ++matched;
      failure[i + 1] = matched;
    }
  }
}

std::size_t StopStrings::advance(std::size_t index, std::size_t matched, char byte) const {
  const std::string& string = strings_[index];
  while (matched > 0 && (matched == string.size() || string[matched] != byte)) matched = failure_[index][matched];
  return string[matched] == byte ? matched + 1 : 0;
}

StopMatcher::StopMatcher(std::shared_ptr<const StopStrings> strings, bool include_stop)
    : strings_(std::move(strings)), include_stop_(include_stop), matched_(strings_->size(), 0) {}

StopMatcher::Released StopMatcher::push(std::string_view text) {
  if (matched_.empty()) return {.text = std::string(text)};
  for (std::size_t at = 0; at < text.size(); ++at) {
    int found = -1;
    for (std::size_t i = 0; i < matched_.size(); ++i) {
      matched_[i] = strings_->advance(i, matched_[i], text[at]);
      if (matched_[i] == (*strings_)[i].size() &&
          (found < 0 || matched_[i] > (*strings_)[static_cast<std::size_t>(found)].size()))
        found = static_cast<int>(i);
    }
    if (found < 0) continue;
    held_.append(text.substr(0, at + 1));
    if (!include_stop_) held_.resize(held_.size() - (*strings_)[static_cast<std::size_t>(found)].size());
    return {.text = std::exchange(held_, {}), .stop = found};
  }
  held_.append(text);
  const std::size_t free = held_.size() - *std::ranges::max_element(matched_);
  Released released{.text = held_.substr(0, free)};
  held_.erase(0, free);
  return released;
}

std::string StopMatcher::pass(std::string_view text) {
  held_.append(text);
  std::ranges::fill(matched_, 0);
  return std::exchange(held_, {});
}

std::string StopMatcher::finish() { return pass({}); }

}  // namespace ashlar::engine
