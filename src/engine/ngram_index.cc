#include "engine/ngram_index.h"

#include <algorithm>

namespace ashlar::engine {
namespace {

constexpr std::int32_t kGap = -1;  // agrees with nothing
constexpr std::size_t kFirstBuckets = 256;

}  // namespace

NgramIndex::NgramIndex(std::span<const std::int32_t> before) : head_(kFirstBuckets, -1) {
  for (const std::int32_t token : before) add(token);
  if (!before.empty()) add(kGap);
  begin_ = text_.size();
}

void NgramIndex::follow(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens.subspan(text_.size() - begin_)) add(token);
}

std::size_t NgramIndex::bucket(std::size_t position) const {
  const auto pair = (static_cast<std::uint64_t>(static_cast<std::uint32_t>(text_[position - 1])) << 32) |
                    static_cast<std::uint32_t>(text_[position]);
  return static_cast<std::size_t>((pair * 0x9e3779b97f4a7c15) >> 32) & (head_.size() - 1);
}

void NgramIndex::add(std::int32_t token) {
  text_.push_back(token);
  prev_.push_back(-1);
  if (text_.size() > head_.size()) return grow();
  const std::size_t position = text_.size() - 1;
  if (position == 0) return;
  std::int32_t& head = head_[bucket(position)];
  prev_[position] = head;
  head = static_cast<std::int32_t>(position);
}

void NgramIndex::grow() {
  head_.assign(2 * head_.size(), -1);
  for (std::size_t position = 1; position < text_.size(); ++position) {
    std::int32_t& head = head_[bucket(position)];
    prev_[position] = head;
    head = static_cast<std::int32_t>(position);
  }
}

// How many tokens up to and with `earlier` are those up to and with the last.
int NgramIndex::agreement(std::size_t earlier) const {
  const std::size_t last = text_.size() - 1;
  const std::size_t most = std::min({static_cast<std::size_t>(kEnough), earlier + 1, text_.size() - begin_});
  std::size_t length = 0;
  while (length < most && text_[earlier - length] == text_[last - length]) ++length;
  return static_cast<int>(length);
}

NgramIndex::Match NgramIndex::find() const {
  Match best{.length = kShortest - 1};
  if (text_.size() < begin_ + kShortest) return {};
  std::int32_t at = prev_.back();
  for (int looks = 0; at > 0 && looks < kLooks && best.length < kEnough; ++looks) {
    const int length = agreement(static_cast<std::size_t>(at));
    if (length > best.length) best = {.length = length, .next = at + 1};
    at = prev_[static_cast<std::size_t>(at)];
  }
  return best.length >= kShortest ? best : Match{};
}

void NgramIndex::read(const Match& match, int count, std::vector<std::int32_t>& out) const {
  const auto next = static_cast<std::size_t>(match.next);
  const std::size_t period = text_.size() - next;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const std::int32_t token = text_[next + i % period];
    if (token == kGap) return;
    out.push_back(token);
  }
}

}  // namespace ashlar::engine
