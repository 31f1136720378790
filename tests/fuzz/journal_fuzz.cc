// The journal of open requests: a damaged file is known as such, and what is written is read again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/limits/journal_format.h"

namespace {

using namespace ashlar::gateway;

// Pieces of the input, one after the other.
class Input {
 public:
  explicit Input(std::string_view bytes) : rest_(bytes) {}
  unsigned number() {
    if (rest_.empty()) return 0;
    const auto first = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    return first;
  }
  std::string text() {
    const std::string_view run = rest_.substr(0, number() * 3);
    rest_.remove_prefix(std::min(rest_.size(), run.size()));
    return std::string(run);
  }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

std::string file_of(Input& input, UsageRecord& record) {
  record.reservation = "id" + input.text();
  record.subject = {.key = input.text(), .user = input.text(), .team = input.text(), .tenant = input.text()};
  record.model = input.text();
  record.begun_utc_ms = input.number();
  for (unsigned i = input.number() % 40; i > 0; --i) record.subject.tags.emplace_back(input.text(), input.text());
  const std::string texts = journal::texts_of(record);
  const std::size_t count = journal::slots_for(texts.size());
  std::string file(journal::kHeader + (count + 1) * journal::kSlot, '\0');
  const auto header = journal::header_of("db");
  std::memcpy(file.data(), &header, sizeof header);
  std::vector<std::byte*> slots;
  std::vector<std::uint32_t> numbers;
  for (std::size_t i = count; i > 0; --i) {
    numbers.push_back(static_cast<std::uint32_t>(i));
    slots.push_back(reinterpret_cast<std::byte*>(file.data()) + journal::kHeader + i * journal::kSlot);
  }
  const Measure measures[] = {Measure::tokens, Measure::money};
  journal::write_open(slots, numbers, record, texts, Price{.input = 1'000'000, .output = 2'000'000}, measures);
  reinterpret_cast<journal::Slot*>(slots[0])->delivered = input.number();
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (size > 0) {
    // Slots lie where words begin.
    std::vector<std::uint64_t> aligned((size + 7) / 8);
    std::memcpy(aligned.data(), data, size);
    (void)read_journal({reinterpret_cast<const char*>(aligned.data()), size});
  }
  Input input(bytes);
  UsageRecord record;
  std::string file = file_of(input, record);
  const auto whole = read_journal(file);
  if (!whole || whole->rows.size() != 1 || whole->torn != 0) std::abort();
  const UsageRecord& read = whole->rows[0].record;
  if (read.reservation != record.reservation.substr(0, journal::kLongestText)) std::abort();
  if (read.subject.user != record.subject.user.substr(0, journal::kLongestText)) std::abort();
  if (read.subject.tags.size() != std::min(record.subject.tags.size(), journal::kMostTags)) std::abort();
  for (int turn = 0; turn < 64 && !input.empty(); ++turn) {
    const std::size_t at = journal::kHeader + (input.number() << 8 | input.number()) % (file.size() - journal::kHeader);
    file[at] = static_cast<char>(input.number());
    const auto damaged = read_journal(file);
    if (!damaged) std::abort();
    for (const JournalRow& row : damaged->rows)
      if (row.record.reservation != read.reservation || row.record.subject.tags != read.subject.tags) std::abort();
  }
  return 0;
}
