#include "cli/certificate.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/log.h"

namespace ashlar::cli {
namespace {

using Days = std::chrono::duration<double, std::ratio<86'400>>;
constexpr int kDaysBefore[] = {30, 7, 1, 0};  // it ends: told of at each

std::vector<std::string> files_of(const net::ServerOptions& options) {
  std::vector<std::string> out;
  for (const std::string* file : {&options.tls_cert, &options.tls_key, &options.tls_client_ca})
    if (!file->empty()) out.push_back(*file);
  return out;
}

}  // namespace

Certificate::Certificate(net::HttpServer& server, const net::ServerOptions& options, gateway::EventLog& events,
                         std::function<std::chrono::system_clock::time_point()> now)
    : server_(server),
      files_(files_of(options)),
      events_(events),
      now_(now ? std::move(now) : [] { return std::chrono::system_clock::now(); }),
      read_(look()),
      seen_(read_) {
  watch_end();
}

std::vector<std::string> Certificate::look() const {
  std::vector<std::string> out;
  for (const std::string& file : files_) {
    struct stat found {};
    out.push_back(stat(file.c_str(), &found) != 0 ? ""
                                                  : fmt::format("{}:{}:{}.{}", found.st_ino, found.st_size,
                                                                found.st_mtim.tv_sec, found.st_mtim.tv_nsec));
  }
  return out;
}

void Certificate::turn() {
  if (files_.empty()) return;
  auto now = look();
  const bool settled = now == seen_;
  seen_ = std::move(now);
  if (settled && seen_ != read_) renew();
  watch_end();
}

void Certificate::renew() {
  if (files_.empty()) return;
  read_ = seen_ = look();
  const auto before = server_.tls_until();
  const Status done = server_.renew_tls();
  std::string why = done ? "" : fmt::format("The certificate stays as it was: {}.", done.error().message);
  const bool news = done ? server_.tls_until() != before : true;
  {
    const std::lock_guard lock(mutex_);
    refused_ = why;
  }
  if (!done) return tell("tls.refused", gateway::Severity::error, why);
  warned_ = 0;
  if (news) tell("tls.renewed", gateway::Severity::info, "Connections that come get another certificate.");
  watch_end();
}

std::string Certificate::trouble() const {
  const std::lock_guard lock(mutex_);
  return refused_.empty() ? ending_ : refused_;
}

void Certificate::tell(const char* kind, gateway::Severity severity, const std::string& message) {
  events_.write({.kind = kind, .subject = files_.front(), .severity = severity, .message = message, .actor = {}});
}

void Certificate::watch_end() {
  const auto until = server_.tls_until();
  if (!until) return;
  ends_.set(static_cast<double>(std::chrono::system_clock::to_time_t(*until)));
  const double days = Days(*until - now_()).count();
  const auto steps = std::ranges::count_if(kDaysBefore, [&](int step) { return days <= step; });
  std::string text;
  if (days <= 0)
    text = fmt::format("The server's certificate {} has ended: put another in its place.", files_.front());
  else if (steps > 0)
    text = fmt::format("The server's certificate {} ends in {:.1f} days: put another in its place.", files_.front(), days);
  {
    const std::lock_guard lock(mutex_);
    ending_ = text;
  }
  if (steps > warned_)
    tell("tls.ending", days <= 1 ? gateway::Severity::error : gateway::Severity::warning, text);
  warned_ = static_cast<int>(steps);
}

}  // namespace ashlar::cli
