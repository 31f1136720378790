#include "cli/pull_screen.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/interrupts.h"
#include "cli/terminal.h"
#include "store/names.h"

namespace ashlar::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kRedraw{200}, kPrint{5000};
constexpr seconds kWindow{10};

std::string stage_text(const store::PullProgress& progress) {
  switch (progress.stage) {
    case store::Stage::listing:
      return "asking the hub";
    case store::Stage::waiting:
      return progress.file.empty() ? "waiting for another process, which is at work in the store"
                                   : "waiting for another pull of " + store::plain(progress.file);
    case store::Stage::checking:
      return "checking " + store::plain(progress.file);
    case store::Stage::fetching:
      return store::plain(progress.file);
  }
  return "";
}

}  // namespace

std::string clock_text(seconds time) {
  const auto all = std::clamp<std::int64_t>(time.count(), 0, 359'999);
  if (all >= 3600) return fmt::format("{}:{:02}:{:02}", all / 3600, all / 60 % 60, all % 60);
  return fmt::format("{:02}:{:02}", all / 60, all % 60);
}

void ArrivalRate::note(Clock::time_point now, std::uint64_t bytes) {
  if (!samples_.empty() && bytes < samples_.back().second) samples_.clear();
  samples_.emplace_back(now, bytes);
  while (samples_.size() > 2 && now - samples_.front().first > kWindow) samples_.pop_front();
}

double ArrivalRate::per_second() const {
  if (samples_.size() < 2) return 0;
  const auto& [from, first] = samples_.front();
  const auto& [to, last] = samples_.back();
  const double time = std::chrono::duration<double>(to - from).count();
  return time > 0 ? static_cast<double>(last - first) / time : 0;
}

PullScreen::PullScreen(std::string name)
    : name_(std::move(name)), terminal_(is_terminal(stderr)), next_(ArrivalRate::Clock::now()) {
  if (!terminal_) next_ += kPrint;
}

PullScreen::~PullScreen() {
  if (drawn_ && terminal_) fmt::print(stderr, "\r\033[K");
}

store::PullWatch PullScreen::watch() {
  return [this](const store::PullProgress& progress) -> Status {
    if (interrupted())
      return Error{Code::cancelled, "interrupted; what has come is kept, the same command goes on with it"};
    draw(progress);
    return {};
  };
}

void PullScreen::draw(const store::PullProgress& progress) {
  const auto now = ArrivalRate::Clock::now();
  if (progress.stage == store::Stage::fetching) rate_.note(now, progress.done);
  if (now < next_) return;
  next_ = now + (terminal_ ? kRedraw : kPrint);
  std::string line = name_;
  if (progress.total > 0)
    line += fmt::format("  {:3}%  {} of {}", std::min<std::uint64_t>(100, progress.done * 100 / progress.total),
                        to_string(Bytes{progress.done}), to_string(Bytes{progress.total}));
  else if (progress.done > 0)
    line += fmt::format("  {}", to_string(Bytes{progress.done}));
  if (const double rate = rate_.per_second(); progress.stage == store::Stage::fetching && rate > 0) {
    line += fmt::format("  {}/s", to_string(Bytes{static_cast<std::uint64_t>(rate)}));
    if (progress.total > progress.done)
      line += fmt::format("  {} left", clock_text(seconds(static_cast<std::int64_t>(std::min(
                                           4e5, static_cast<double>(progress.total - progress.done) / rate)))));
  }
  line += fmt::format("  {}", stage_text(progress));
  if (terminal_)
    fmt::print(stderr, "\r\033[K{}", line);
  else
    fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace ashlar::cli
