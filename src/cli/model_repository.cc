#include "cli/model_repository.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/log.h"
#include "gateway/section.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::ptrdiff_t kMostEntries = 10'000;  // of a folder, and of what is below a version
constexpr int kDepth = 3;                        // of folders below a version

// Of a folder, in order; those that cannot be read are none.
std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code failed;
  for (auto each = fs::directory_iterator(folder, failed);
       !failed && each != fs::directory_iterator() && std::ssize(out) < kMostEntries; each.increment(failed))
    out.push_back(each->path());
  std::ranges::sort(out);
  return out;
}

bool is_folder(const fs::path& path) {
  std::error_code failed;
  return fs::is_directory(path, failed);
}

bool is_file(const fs::path& path) {
  std::error_code failed;
  return fs::is_regular_file(path, failed);
}

// "12"; not "012", "+12", "v12".
std::optional<std::int64_t> version_of(const std::string& text) {
  if (text.empty() || text.size() > 15 || (text.front() == '0' && text.size() > 1)) return std::nullopt;
  std::int64_t number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed != std::errc{} || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

bool is_model_name(const std::string& name) {
  return gateway::is_config_name(name) && name.front() != '.' && name.find('@') == name.npos;
}

// Every file below, with its size and time: another once anything in it is.
void stamp_below(const fs::path& folder, int depth, std::ptrdiff_t& left, std::string& out) {
  for (const fs::path& each : entries(folder)) {
    struct stat found{};
    if (--left < 0 || stat(each.c_str(), &found) != 0) continue;
    const std::string name = each.filename().string();
    if (S_ISDIR(found.st_mode) && depth > 0) {
      out += name + "/{";
      stamp_below(each, depth - 1, left, out);
      out += "}";
    } else if (S_ISREG(found.st_mode)) {
      out += fmt::format("{}:{}:{}:{}.{};", name, found.st_ino, found.st_size, found.st_mtim.tv_sec,
                         found.st_mtim.tv_nsec);
    }
  }
}

std::string stamp_of_version(const fs::path& folder) {
  std::string out = folder.string() + ":";
  std::ptrdiff_t left = kMostEntries;
  const std::size_t before = out.size();
  stamp_below(folder, kDepth, left, out);
  return out.size() == before ? std::string() : out;
}

}  // namespace

Result<std::string> model_in(const std::string& folder) {
  if (is_file(fs::path(folder) / "config.json")) return folder;
  std::vector<std::string> files, folders;
  for (const fs::path& each : entries(folder)) {
    const std::string name = each.filename().string();
    const bool later_part = name.find("-of-") != name.npos && name.find("-00001-of-") == name.npos;
    if (name.ends_with(".gguf") && !later_part && is_file(each)) files.push_back(each.string());
    if (is_folder(each) && is_file(each / "config.json")) folders.push_back(each.string());
  }
  if (files.size() == 1) return files.front();
  if (files.empty() && folders.size() == 1) return folders.front();
  if (files.empty() && folders.empty())
    return Error{Code::not_found,
                 fmt::format("{}: no model in it: a GGUF file, or a config.json and its weights", folder)};
  return Error{Code::invalid, fmt::format("{}: several models in it", folder)};
}

Status check_options(const RepositoryOptions& options) {
  if (options.model_versions < 1 || options.model_versions > 100)
    return Error{Code::invalid, "--model-versions: a number from 1 to 100"};
  return {};
}

Status ModelRepository::check() const {
  TRY(check_options(options_));
  if (!options_.model_repository.empty() && !is_folder(options_.model_repository))
    return Error{Code::not_found,
                 fmt::format("--model-repository: there is no folder '{}'", options_.model_repository)};
  return {};
}

bool ModelRepository::turn(TimePoint now, bool first) {
  // A folder that cannot be read just now (a mount that went) has not lost its models.
  if (options_.model_repository.empty() || !is_folder(options_.model_repository)) return false;
  look(now, first);
  const std::vector<HostedModel> before = std::exchange(chosen_, {});
  const auto aliases = std::exchange(aliases_, {});
  choose();
  return chosen_ != before || aliases_ != aliases;
}

void ModelRepository::look(TimePoint now, bool first) {
  std::set<std::string> seen;
  for (const fs::path& each : entries(options_.model_repository)) {
    const std::string name = each.filename().string();
    if (!is_model_name(name) || !is_folder(each)) continue;
    seen.insert(name);
    look_at(each.string(), models_[name], now, first);
  }
  std::erase_if(models_, [&](const auto& model) { return !seen.contains(model.first); });
}

void ModelRepository::look_at(const std::string& folder, Versions& versions, TimePoint now, bool first) const {
  std::set<std::int64_t> seen;
  for (const fs::path& each : entries(folder)) {
    const auto number = version_of(each.filename().string());
    if (!number || !is_folder(each)) continue;
    seen.insert(*number);
    Version& version = versions[*number];
    std::string stamp = stamp_of_version(each);
    if (stamp != version.seen) {
      version.seen = std::move(stamp);
      version.since = now;
    }
    // One that is served stays what it was while its files change.
    if (first || now - version.since >= kSettled) version.stamp = version.seen;
  }
  std::erase_if(versions, [&](const auto& version) { return !seen.contains(version.first); });
}

void ModelRepository::choose() {
  for (const auto& [name, versions] : models_) {
    int taken = 0;
    for (const auto& [number, version] : versions) {
      if (version.stamp.empty() || refused_.contains(version.stamp)) continue;
      const auto path = model_in(fmt::format("{}/{}/{}", options_.model_repository, name, number));
      if (!path) {
        log::warn("version_refused", {{"model", name}, {"version", number}, {"why", path.error().message}});
        refused_.insert(version.stamp);
        continue;
      }
      const bool by_number = options_.model_versions > 1;
      std::string served = by_number ? fmt::format("{}@{}", name, number) : name;
      if (by_number && taken == 0) aliases_[name] = served;
      chosen_.push_back({.name = std::move(served), .path = *path, .stamp = version.stamp});
      if (++taken == options_.model_versions) break;
    }
  }
}

void ModelRepository::refuse(const std::string& name) {
  const auto found = std::ranges::find(chosen_, name, &HostedModel::name);
  if (found != chosen_.end()) refused_.insert(found->stamp);
}

}  // namespace ashlar::cli
