#include "gateway/limits/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/descriptor.h"
#include "base/log.h"
#include "gateway/limits/journal_format.h"
#include "gateway/limits/orphans.h"
#include "store/counters.h"

namespace ashlar::gateway {
namespace {

using journal::kHeader;
using journal::kSlot;

constexpr std::int64_t kGrowAgainMs = 1000;

std::int64_t steady_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Where a mapping may begin that has this byte of the file in it.
std::size_t before(std::size_t at) { return at % static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

Error cannot(const std::string& path, std::string_view what, int why) {
  return {Code::io, fmt::format("{}: cannot {}: {}.", path, what, std::strerror(why))};
}

}  // namespace

class Journal::Entry final : public OpenUsage {
 public:
  Entry(std::shared_ptr<Journal> owner, Slot number)
      : owner_(std::move(owner)), number_(number), slot_(*reinterpret_cast<journal::Slot*>(owner_->at(number))) {}
  ~Entry() override {
    if (!record_) {  // it never ran
      owner_->free(number_);
      return;
    }
    // Whatever is not on its way by now never will be: the record is the truth.
    slot_.delivered.store(kAll, std::memory_order_release);
    owner_->ended(*record_, number_);
  }

  void prompt(const TokenUse& use) override {
    const auto half = [](std::int64_t n) {
      return static_cast<std::uint64_t>(std::clamp<std::int64_t>(n, 0, 0xFFFFFFFF));
    };
    if (use.written > 0) slot_.written.store(half(use.hour) << 32 | half(use.written), std::memory_order_release);
    slot_.prompt.store(half(use.cached) << 32 | half(use.prompt), std::memory_order_release);
  }
  std::atomic<std::uint64_t>& delivered() override { return slot_.delivered; }
  void end(UsageRecord record) override {
    journal::write_end(slot_, record);
    record_ = std::make_unique<UsageRecord>(std::move(record));
  }
  void also(std::uint32_t count) override { std::atomic_ref(slot_.fixed.also).store(count, std::memory_order_release); }
  void hold(std::shared_ptr<const void> held) override { held_ = std::move(held); }

 private:
  const std::shared_ptr<Journal> owner_;
  const Slot number_;
  journal::Slot& slot_;
  std::unique_ptr<UsageRecord> record_;
  std::shared_ptr<const void> held_;
};

Journal::Journal(Options options, Ended ended)
    : options_(std::move(options)),
      ended_(std::make_shared<const Ended>(std::move(ended))),
      pieces_(std::make_unique<std::byte*[]>(options_.most / options_.step + 1)) {}

Result<std::shared_ptr<Journal>> Journal::create(Options options, Ended ended) {
  CHECK(options.step > 0 && options.most >= options.step, "a journal has slots");
  std::shared_ptr<Journal> made(new Journal(std::move(options), std::move(ended)));
  TRY(made->make());
  return made;
}

// Under a name that nobody looks for, until it is locked and whole.
Status Journal::make() {
  const std::string name = fmt::format("{}-{}", store::new_reservation_id(), ::getpid());
  const std::string hidden = fmt::format("{}/{}{}", options_.folder, kHiddenJournal, name);
  path_ = fmt::format("{}/{}{}", options_.folder, kJournal, name);
  fd_ = ::open(hidden.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd_ < 0) return cannot(hidden, "be made", errno);
  const auto failed = [&](std::string_view what, int why) -> Status {
    ::unlink(hidden.c_str());
    return cannot(hidden, what, why);
  };
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) return failed("be locked", errno);
  std::string page(kHeader, '\0');
  const journal::Header header = journal::header_of(options_.database);
  std::memcpy(page.data(), &header, sizeof header);
  if (!write_all(fd_, page)) return failed("be written", errno);
  if (auto grown = grow(); !grown) {
    ::unlink(hidden.c_str());
    return grown;
  }
  if (::renameat2(AT_FDCWD, hidden.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0)
    return failed("get its name", errno);
  return {};
}

// Room on the disk first: a page of a mapped file that finds none when it is written to ends the process.
Status Journal::grow() {
  if (slots_ + options_.step > options_.most)
    return Error{Code::io, fmt::format("{}: {} requests are open or wait for the database.", path_, slots_)};
  const std::size_t from = kHeader + std::size_t{slots_} * kSlot, size = std::size_t{options_.step} * kSlot;
  if (const int why = ::posix_fallocate(fd_, static_cast<off_t>(from), static_cast<off_t>(size)); why != 0)
    return cannot(path_, "grow", why);
  const std::size_t lead = before(from);
  void* const piece =
      ::mmap(nullptr, lead + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, static_cast<off_t>(from - lead));
  if (piece == MAP_FAILED) return cannot(path_, "be mapped", errno);
  pieces_[slots_ / options_.step] = static_cast<std::byte*>(piece) + lead;
  free_.reserve(slots_ + options_.step);
  for (std::uint32_t i = options_.step; i > 0; --i) free_.push_back(slots_ + i - 1);
  slots_ += options_.step;
  return {};
}

Journal::~Journal() {
  if (fd_ < 0) return;
  if (free_.size() == slots_) ::unlink(path_.c_str());
  const std::size_t size = std::size_t{options_.step} * kSlot;
  for (std::size_t i = 0; i < slots_ / options_.step; ++i) {
    const std::size_t lead = before(kHeader + i * size);
    ::munmap(pieces_[i] - lead, lead + size);
  }
  ::close(fd_);
}

std::byte* Journal::at(Slot slot) const {
  return pieces_[slot / options_.step] + std::size_t{slot % options_.step} * kSlot;
}

// All or none.
std::vector<Journal::Slot> Journal::take(std::size_t count) {
  const std::lock_guard lock(mutex_);
  while (free_.size() < count) {
    if (!health_ && steady_ms() < grow_again_ms_) return {};
    const bool said = !health_.has_value();
    health_ = grow();
    if (health_) continue;
    grow_again_ms_ = steady_ms() + kGrowAgainMs;
    if (!said) log::error("journal_full", {{"why", health_.error().message}});
    return {};
  }
  health_ = {};
  const std::vector<Slot> slots(free_.end() - static_cast<std::ptrdiff_t>(count), free_.end());
  free_.resize(free_.size() - count);
  return slots;
}

std::shared_ptr<OpenUsage> Journal::open(const UsageRecord& begun, const std::optional<Price>& price,
                                         std::span<const Measure> measures) {
  const std::string texts = journal::texts_of(begun);
  const std::vector<Slot> numbers = take(journal::slots_for(texts.size()));
  if (numbers.empty()) return nullptr;
  std::vector<std::byte*> slots;
  for (const Slot number : numbers) slots.push_back(at(number));
  journal::write_open(slots, numbers, begun, texts, price, measures);
  return std::make_shared<Entry>(shared_from_this(), numbers.front());
}

std::optional<UsageRecord> Journal::read(Slot slot) const {
  auto row = journal::read_slot(slot, [this](std::uint32_t number) { return at(number); });
  if (!row) return std::nullopt;
  return std::move(row->record);
}

void Journal::free(Slot slot) {
  std::vector<Slot> chain{slot};
  auto& first = *reinterpret_cast<journal::Slot*>(at(slot));
  first.seal.store(0, std::memory_order_release);
  for (std::uint32_t next = first.fixed.next; next != 0;) {
    auto& further = *reinterpret_cast<journal::Further*>(at(next - 1));
    chain.push_back(next - 1);
    further.seal.store(0, std::memory_order_release);
    next = further.next;
  }
  const std::lock_guard lock(mutex_);
  free_.insert(free_.end(), chain.rbegin(), chain.rend());
}

void Journal::retire() {
  const std::lock_guard lock(mutex_);
  ended_ = nullptr;
}

void Journal::ended(const UsageRecord& record, Slot slot) {
  std::shared_ptr<const Ended> tell;
  {
    const std::lock_guard lock(mutex_);
    tell = ended_;
  }
  if (tell) (*tell)(record, slot);
}

std::size_t Journal::used() const {
  const std::lock_guard lock(mutex_);
  return slots_ - free_.size();
}

Status Journal::health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

}  // namespace ashlar::gateway
