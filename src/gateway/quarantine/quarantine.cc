#include "gateway/quarantine/quarantine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "store/digest.h"

namespace ashlar::gateway {
namespace {

constexpr std::uint64_t kMagic = 0x31'48'53'41'52'43'4c'41;  // "ALCRASH1"
constexpr int kFiles = 64;                                   // processes that share a folder
constexpr std::uint32_t kSlots = 4096;                       // requests at once; those beyond are not watched
constexpr std::size_t kSuspects = 1024;                      // the oldest makes room
constexpr std::int64_t kKept = 24 * 3600;                    // seconds
constexpr std::uint32_t kTwice = 2;
constexpr std::chrono::milliseconds kTryAgain{1'000};
constexpr int kCrashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

std::int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Error failed(const std::string& path) {
  return {Code::io, fmt::format("{}: cannot be used to note who runs: {}", path, std::strerror(errno))};
}

// What the handler marks, and what it hands on to.
std::atomic<std::atomic<std::uint32_t>*> mark = nullptr;
struct sigaction before[std::size(kCrashes)];

void note_crash(int signal) {
  if (auto* const crashed = mark.load()) crashed->store(static_cast<std::uint32_t>(signal));
  for (std::size_t i = 0; i < std::size(kCrashes); ++i)
    if (kCrashes[i] == signal) sigaction(signal, &before[i], nullptr);
  raise(signal);  // comes when this returns
}

void watch_signals(std::atomic<std::uint32_t>* crashed) {
  mark = crashed;
  struct sigaction action{};
  action.sa_handler = note_crash;
  action.sa_flags = SA_ONSTACK;
  for (std::size_t i = 0; i < std::size(kCrashes); ++i) {
    struct sigaction old{};
    sigaction(kCrashes[i], &action, &old);
    if (old.sa_handler != note_crash) before[i] = old;  // which a forked process has already
  }
}

void forget_signals() {
  for (std::size_t i = 0; i < std::size(kCrashes); ++i) sigaction(kCrashes[i], &before[i], nullptr);
  mark = nullptr;
}

}  // namespace

// The whole file.
struct Quarantine::File {
  struct Suspect {
    Hash hash;
    std::uint32_t crashes;  // 0: nobody
    std::uint32_t unused;
    std::int64_t seconds;  // since 1970, of the last crash
  };
  std::uint64_t magic;
  std::atomic<std::uint32_t> crashed;  // the signal; 0: it did not
  std::uint32_t unused;
  std::array<Suspect, kSuspects> suspects;
  std::array<std::atomic<Hash>, kSlots> running;  // 0: nobody

  Suspect* find(Hash hash) {
    const auto found =
        std::ranges::find_if(suspects, [&](const Suspect& each) { return each.crashes > 0 && each.hash == hash; });
    return found == suspects.end() ? nullptr : &*found;
  }
};

namespace {

// Their length first: so no two lists of texts are one.
void append(std::string& out, std::string_view text) {
  const std::uint64_t size = text.size();
  out.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
}

void append(std::string& out, const engine::TextOrIds& text) {
  const auto* ids = std::get_if<std::vector<std::int32_t>>(&text);
  if (ids == nullptr) return append(out, std::string_view(std::get<std::string>(text)));
  append(out, std::string_view(reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(*ids->data())));
  out += '#';
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0;
  std::memcpy(&hash, store::sha256(text).data(), sizeof hash);
  return std::max<std::uint64_t>(hash, 1);
}

}  // namespace

std::uint64_t prompt_hash(const engine::EmbedRequest& request) {
  std::string text = request.model + '\n';
  for (const engine::TextOrIds& each : request.inputs) append(text, each);
  return hash_of(text);
}

std::uint64_t prompt_hash(const engine::RerankRequest& request) {
  std::string text = request.model + '\n';
  append(text, std::string_view(request.query));
  for (const std::string& each : request.documents) append(text, std::string_view(each));
  return hash_of(text);
}

std::uint64_t prompt_hash(const engine::Request& request) {
  std::string text = request.model + '\n';
  const auto add = [&](const std::shared_ptr<const Json>& json) { text += json ? dump_json(*json) + '\n' : "\n"; };
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&request.prompt.input)) {
    text.append(reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(*ids->data()));
  } else if (const auto* plain = std::get_if<std::string>(&request.prompt.input)) {
    text += *plain;
  } else {
    const auto& chat = std::get<engine::Chat>(request.prompt.input);
    for (const auto& part : {chat.messages, chat.tools, chat.template_kwargs}) add(part);
    text += chat.chat_template;
  }
  return hash_of(text);
}

Result<std::unique_ptr<Quarantine>> Quarantine::open(const std::string& folder, EventLog* events) {
  std::error_code made;
  std::filesystem::create_directories(folder, made);
  for (int i = 0; i < kFiles; ++i) {
    const std::string path = fmt::format("{}/running-{}", folder, i);
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) return failed(path);
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      ::close(descriptor);
      continue;  // of another process
    }
    void* at = MAP_FAILED;
    if (const int full = ::posix_fallocate(descriptor, 0, sizeof(File)); full == 0)
      at = ::mmap(nullptr, sizeof(File), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    else
      errno = full;
    if (at == MAP_FAILED) {
      const Error why = failed(path);
      ::close(descriptor);
      return why;
    }
    std::unique_ptr<Quarantine> out(new Quarantine(descriptor, static_cast<File*>(at)));
    out->take_over(events);
    watch_signals(&out->file_->crashed);
    return out;
  }
  return Error{Code::io, fmt::format("{}: {} processes use it already", folder, kFiles)};
}

Quarantine::~Quarantine() {
  forget_signals();
  ::munmap(file_, sizeof(File));
  ::close(descriptor_);
}

// Who ran when the process before crashed is suspect; then the file is this process's.
void Quarantine::take_over(EventLog* events) {
  if (file_->magic != kMagic) {
    std::memset(static_cast<void*>(file_), 0, sizeof(File));
    file_->magic = kMagic;
  }
  const std::int64_t now = now_seconds();
  for (File::Suspect& each : file_->suspects)
    if (each.crashes > 0 && (now - each.seconds > kKept || each.seconds > now)) each = {};
  const std::uint32_t signal = file_->crashed.exchange(0);
  std::set<Hash> ran;  // each once, however often
  for (std::atomic<Hash>& slot : file_->running)
    if (const Hash hash = slot.exchange(0); hash != 0 && signal != 0) ran.insert(hash);
  for (const Hash hash : ran) {
    File::Suspect* suspect = file_->find(hash);
    if (suspect == nullptr) {
      suspect = &*std::ranges::min_element(file_->suspects, {}, &File::Suspect::seconds);
      *suspect = {.hash = hash, .crashes = 0, .unused = 0, .seconds = now};
    }
    ++suspect->crashes;
    suspect->seconds = now;
    if (suspect->crashes != kTwice || events == nullptr) continue;
    events->write(
        {.kind = "request.quarantined",
         .subject = fmt::format("{:016x}", hash),
         .severity = Severity::error,
         .message = fmt::format("The server crashed (signal {}) twice while it answered this prompt, which is "
                                "refused for a day from now on.",
                                signal),
         .actor = {}});
  }
  for (std::uint32_t i = kSlots; i-- > 0;) free_.push_back(i);
}

std::expected<std::unique_ptr<Quarantine::Pass>, engine::Generator::Refusal> Quarantine::enter(Hash hash) {
  using engine::Generator;
  const std::lock_guard lock(mutex_);
  if (const File::Suspect* suspect = file_->find(hash); suspect != nullptr) {
    if (suspect->crashes >= kTwice) {
      refused_.add();
      return std::unexpected(Generator::Refusal{
          .error = {Code::forbidden,
                    "the server crashed twice while it answered this prompt, which is refused for a day"},
          .status = 422,
          .reason = "request_quarantined"});
    }
    if (tried_) {
      refused_.add();
      return std::unexpected(Generator::Refusal{
          .error = {Code::unavailable,
                    "the server crashed while it answered this prompt: it is tried again alone, later"},
          .retry_after = kTryAgain});
    }
    tried_ = hash;
  }
  std::optional<std::uint32_t> slot;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
    file_->running[*slot].store(hash);
  }
  return std::make_unique<Pass>(*this, hash, slot);
}

void Quarantine::leave(const Pass& pass) {
  const std::lock_guard lock(mutex_);
  if (tried_ == pass.hash_) tried_.reset();
  if (!pass.slot_) return;
  file_->running[*pass.slot_].store(0);
  free_.push_back(*pass.slot_);
}

void Quarantine::clear(Hash hash) {
  const std::lock_guard lock(mutex_);
  if (tried_ == hash) tried_.reset();
  if (File::Suspect* suspect = file_->find(hash); suspect != nullptr && suspect->crashes < kTwice) *suspect = {};
}

std::size_t Quarantine::held() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::ranges::count_if(file_->suspects, [](const File::Suspect& each) { return each.crashes >= kTwice; }));
}

}  // namespace ashlar::gateway
