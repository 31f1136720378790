#include "gateway/limits/journal_format.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace ashlar::gateway {
namespace journal {
namespace {

constexpr std::string_view kMagic = "ASHLARJ";  // the version, a digit, comes behind it
constexpr std::size_t kMostSlots = 64;          // of one record
constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

std::uint64_t mix(std::uint64_t hash, std::string_view bytes) {
  const auto add = [&](std::uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  };
  add(bytes.size());
  for (; bytes.size() >= 8; bytes.remove_prefix(8)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    add(word);
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, bytes.data(), bytes.size());
  add(rest);
  return hash;
}

template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Odd, so neither that of a free slot nor that of one with further texts.
template <class AnyPrice>
std::uint64_t seal_of(std::uint32_t number, FixedWith<AnyPrice> fixed, std::string_view texts) {
  fixed.also = 0;
  return mix(mix(mix(0x6A73686C61720A, bytes_of(number)), bytes_of(fixed)), texts) | 1;
}
template <class AnyEnd>
std::uint64_t seal_of_end(std::uint64_t slot_seal, const AnyEnd& end) {
  return mix(slot_seal, bytes_of(end)) | 1;
}

// What version 1 did not know was priced as any other of the prompt, what version 2 did not, as any other write.
Price price_of(const Price& price) { return price; }
Price price_of(const PriceOfTwo& price) {
  return {.input = price.input,
          .cached_input = price.cached_input,
          .cache_write = price.cache_write,
          .output = price.output,
          .reasoning = price.reasoning,
          .cache_write_1h = price.cache_write};
}
Price price_of(const PriceOfOne& price) {
  return {.input = price.input,
          .cached_input = price.cached_input,
          .cache_write = price.input,
          .output = price.output,
          .reasoning = price.reasoning,
          .cache_write_1h = price.input};
}
// As the slot has it, both halves.
std::uint64_t written_of(const auto& slot) { return slot.written.load(std::memory_order_acquire); }
std::uint64_t written_of(const SlotOfOne&) { return 0; }
std::int64_t written_at(const End& end) { return end.written; }
std::int64_t written_at(const EndOfOne&) { return 0; }

void put(std::string& out, std::string_view text, std::size_t most = kLongestText) {
  text = text.substr(0, most);
  const auto size = static_cast<std::uint16_t>(text.size());
  out.append(bytes_of(size)).append(text);
}

std::optional<std::string> take(std::string_view& texts) {
  std::uint16_t size = 0;
  if (texts.size() < sizeof size) return std::nullopt;
  std::memcpy(&size, texts.data(), sizeof size);
  texts.remove_prefix(sizeof size);
  if (texts.size() < size) return std::nullopt;
  std::string out(texts.substr(0, size));
  texts.remove_prefix(size);
  return out;
}

bool read_texts(std::string_view texts, bool has_given_id, UsageRecord& record) {
  for (std::string* const each : {&record.reservation, &record.request, &record.subject.key, &record.subject.user,
                                  &record.subject.team, &record.subject.tenant, &record.model}) {
    auto text = take(texts);
    if (!text) return false;
    *each = std::move(*text);
  }
  if (has_given_id) {
    auto text = take(texts);
    if (!text) return false;
    record.given_id = std::move(*text);
  }
  while (!texts.empty()) {
    auto name = take(texts);
    auto value = take(texts);
    if (!name || !value || record.subject.tags.size() == kMostTags) return false;
    record.subject.tags.emplace_back(std::move(*name), std::move(*value));
  }
  return !record.reservation.empty();
}

// The texts of a chain of slots, as many as the first says.
template <class AnySlot>
std::optional<std::string> gather(const AnySlot& first, SlotAt at) {
  const std::size_t wanted = first.fixed.text_bytes;
  if (slots_for(wanted) > kMostSlots) return std::nullopt;
  std::string texts(first.texts, std::min(wanted, AnySlot::kTexts));
  std::uint32_t next = first.fixed.next;
  while (texts.size() < wanted) {
    const std::byte* const bytes = next == 0 ? nullptr : at(next - 1);
    if (bytes == nullptr) return std::nullopt;
    const auto& further = *reinterpret_cast<const Further*>(bytes);
    const std::size_t most = std::min(wanted - texts.size(), Further::kTexts);
    if (further.seal.load(std::memory_order_acquire) != kFurther || further.bytes != most) return std::nullopt;
    texts.append(further.texts, most);
    next = further.next;
  }
  return texts;
}

bool is_count(std::int64_t value) { return value >= 0 && value <= kMostTokens; }

// What a request used that was cut off.
template <class AnySlot, class AnyPrice>
void cut_off(UsageRecord& record, std::uint64_t delivered, const AnySlot& slot, const FixedWith<AnyPrice>& fixed) {
  record.end = UsageRecord::End::interrupted;
  if (delivered == 0 || delivered > static_cast<std::uint64_t>(kMostTokens)) return;
  const std::uint64_t prompt = slot.prompt.load(std::memory_order_acquire);
  const std::uint64_t both = written_of(slot);
  const auto lower = [](std::uint64_t halves) { return static_cast<std::int64_t>(halves & 0xFFFFFFFF); };
  const auto upper = [](std::uint64_t halves) { return static_cast<std::int64_t>(halves >> 32); };
  const std::int64_t tokens = lower(prompt), cached = upper(prompt);
  const std::int64_t written = std::clamp<std::int64_t>(lower(both), 0, std::max<std::int64_t>(0, tokens - cached));
  record.use = {.prompt = tokens,
                .cached = cached,
                .written = written,
                .hour = std::min(upper(both), written),
                .completion = static_cast<std::int64_t>(delivered)};
  if (fixed.priced != 0) record.cost = cost_of(price_of(fixed.price), record.use);
}

}  // namespace

Header header_of(const std::string& database) {
  Header header{.slot_bytes = kSlot};
  std::ranges::copy(kMagic, header.magic);
  header.magic[kMagic.size()] = '0' + kVersion;
  const std::string_view name = std::string_view(database).substr(0, kLongestText);
  header.database_bytes = static_cast<std::uint32_t>(name.size());
  std::ranges::copy(name, header.database);
  return header;
}

std::string texts_of(const UsageRecord& record) {
  std::string out;
  for (const std::string* const each : {&record.reservation, &record.request, &record.subject.key, &record.subject.user,
                                        &record.subject.team, &record.subject.tenant, &record.model})
    put(out, *each);
  put(out, record.given_id);
  for (std::size_t i = 0; i < std::min(record.subject.tags.size(), kMostTags); ++i) {
    put(out, record.subject.tags[i].first, kLongestTag);
    put(out, record.subject.tags[i].second);
  }
  return out;
}

std::size_t slots_for(std::size_t text_bytes) {
  if (text_bytes <= Slot::kTexts) return 1;
  return 1 + (text_bytes - Slot::kTexts + Further::kTexts - 1) / Further::kTexts;
}

void write_open(std::span<std::byte* const> slots, std::span<const std::uint32_t> numbers, const UsageRecord& record,
                const std::string& texts, const std::optional<Price>& price, std::span<const Measure> measures) {
  DCHECK(slots.size() == slots_for(texts.size()) && numbers.size() == slots.size(), "as many slots as the texts take");
  std::string_view rest = std::string_view(texts).substr(std::min(texts.size(), Slot::kTexts));
  for (std::size_t i = 1; i < slots.size(); ++i) {
    auto& further = *reinterpret_cast<Further*>(slots[i]);
    const std::string_view run = rest.substr(0, Further::kTexts);
    rest.remove_prefix(run.size());
    std::ranges::copy(run, further.texts);
    further.bytes = static_cast<std::uint32_t>(run.size());
    further.next = i + 1 < slots.size() ? numbers[i + 1] + 1 : 0;
    further.seal.store(kFurther, std::memory_order_release);
  }
  auto& slot = *reinterpret_cast<Slot*>(slots[0]);
  slot.delivered.store(0, std::memory_order_relaxed);
  slot.prompt.store(0, std::memory_order_relaxed);
  slot.end_seal.store(0, std::memory_order_relaxed);
  slot.written.store(0, std::memory_order_relaxed);
  Fixed fixed{.begun_utc_ms = record.begun_utc_ms,
              .price = price.value_or(Price{}),
              .text_bytes = static_cast<std::uint32_t>(texts.size()),
              .next = slots.size() > 1 ? numbers[1] + 1 : 0,
              .priced = price.has_value(),
              .measures = static_cast<std::uint16_t>(std::min(measures.size(), store::kMostCharges)),
              .measure = {},
              .also = 0};
  for (std::size_t i = 0; i < fixed.measures; ++i) fixed.measure[i] = static_cast<std::uint8_t>(measures[i]);
  slot.fixed = fixed;
  std::ranges::copy(std::string_view(texts).substr(0, Slot::kTexts), slot.texts);
  slot.seal.store(seal_of(numbers[0], fixed, texts), std::memory_order_release);
}

void write_end(Slot& slot, const UsageRecord& record) {
  const End end{{.prompt = record.use.prompt,
                 .cached = record.use.cached,
                 .completion = record.use.completion,
                 .reasoning = record.use.reasoning,
                 .cost = record.cost,
                 .duration_ms = std::llround(std::clamp(record.seconds, 0.0, 1e9) * 1000),
                 .how = 1 + static_cast<std::uint64_t>(record.end)},
                record.use.written};
  slot.end = end;
  slot.end_seal.store(seal_of_end(slot.seal.load(std::memory_order_relaxed), end), std::memory_order_release);
}

namespace {

template <class AnySlot>
std::optional<JournalRow> read_as(std::uint32_t number, SlotAt at) {
  const auto& slot = *reinterpret_cast<const AnySlot*>(at(number));
  const std::uint64_t seal = slot.seal.load(std::memory_order_acquire);
  if (seal == 0 || seal == kFurther) return std::nullopt;
  const auto fixed = slot.fixed;
  const auto texts = gather(slot, at);
  JournalRow row;
  constexpr bool kHasGivenId = !std::is_same_v<AnySlot, SlotOfOne>;
  if (!texts || seal != seal_of(number, fixed, *texts) || !read_texts(*texts, kHasGivenId, row.record))
    return std::nullopt;
  if (fixed.measures > fixed.measure.size()) return std::nullopt;
  for (std::size_t i = 0; i < fixed.measures; ++i) {
    if (fixed.measure[i] > static_cast<std::uint8_t>(Measure::money)) return std::nullopt;
    row.measures.push_back(static_cast<Measure>(fixed.measure[i]));
  }
  row.also = std::min(fixed.also, kMostAlso);
  UsageRecord& record = row.record;
  record.begun_utc_ms = fixed.begun_utc_ms;
  const std::uint64_t delivered = slot.delivered.load(std::memory_order_acquire);
  const auto end = slot.end;
  const bool whole = slot.end_seal.load(std::memory_order_acquire) == seal_of_end(seal, end) && end.how >= 1 &&
                     end.how <= 1 + static_cast<std::uint64_t>(UsageRecord::End::kept) && is_count(end.prompt) &&
                     is_count(end.cached) && is_count(end.completion) && is_count(end.reasoning) &&
                     is_count(written_at(end)) && end.cost >= 0 && end.duration_ms >= 0;
  if (whole) record.seconds = static_cast<double>(end.duration_ms) / 1000;
  if (!whole || delivered != OpenUsage::kAll) {
    cut_off(record, delivered, slot, fixed);
    return row;
  }
  record.use = {.prompt = end.prompt,
                .cached = end.cached,
                .written = written_at(end),
                .completion = end.completion,
                .reasoning = end.reasoning};
  record.cost = end.cost;
  record.end = static_cast<UsageRecord::End>(end.how - 1);
  return row;
}

}  // namespace

std::optional<JournalRow> read_slot(std::uint32_t number, SlotAt at, int version) {
  if (version == 1) return read_as<SlotOfOne>(number, at);
  return version == 2 ? read_as<SlotOfTwo>(number, at) : read_as<Slot>(number, at);
}

}  // namespace journal

Result<JournalText> read_journal(std::string_view bytes) {
  using namespace journal;
  if (bytes.size() < kHeader || !bytes.starts_with(kMagic))
    return Error{Code::corrupt, "This is no journal of open requests."};
  const int version = bytes[kMagic.size()] - '0';
  if (version < 1 || version > kVersion)
    return Error{Code::unsupported, "This journal is of another version of Ashlar."};
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.slot_bytes != kSlot || header.database_bytes > kLongestText)
    return Error{Code::corrupt, "The header of the journal of open requests is damaged."};
  JournalText out{.database = std::string(header.database, header.database_bytes)};
  bytes.remove_prefix(kHeader);
  const std::size_t count = bytes.size() / kSlot;
  const auto at = [&](std::uint32_t number) {
    return number < count ? reinterpret_cast<const std::byte*>(bytes.data()) + number * kSlot : nullptr;
  };
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint64_t seal = 0;
    std::memcpy(&seal, bytes.data() + i * kSlot, sizeof seal);
    if (seal == 0 || seal == kFurther) continue;
    if (auto row = read_slot(i, at, version))
      out.rows.push_back(std::move(*row));
    else
      ++out.torn;
  }
  return out;
}

}  // namespace ashlar::gateway
