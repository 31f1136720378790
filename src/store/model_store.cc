#include "store/model_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <set>
#include <utility>

#include "base/descriptor.h"
#include "base/json_full.h"
#include "base/log.h"
#include "net/http_text.h"
#include "store/digest.h"
#include "store/files.h"
#include "store/names.h"
#include "store/wire.h"

namespace ashlar::store {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostManifest = 64 << 20;
constexpr std::chrono::hours kPartialsKept{14 * 24};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A name for a folder: what a person recognizes, then what makes it unique.
std::string slot_of(const std::string& reference) {
  std::string readable;
  for (const char c : reference.substr(0, 80)) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.';
    readable.push_back(letter ? c : '-');
  }
  return fmt::format("{}-{}", readable, to_hex(sha256(reference)).substr(0, 12));
}

// What changes when somebody writes to the file.
std::optional<std::string> look_of(const std::string& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return fmt::format("{} {} {}.{:09}\n", info.st_size, info.st_ino, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

std::string partial_name(const Wanted& wanted) {
  if (!wanted.sha256.empty()) return "sha256-" + wanted.sha256;
  return "url-" + to_hex(sha256(without_query(wanted.address.url)));
}

std::vector<fs::path> entries_of(const std::string& folder) {
  std::vector<fs::path> out;
  std::error_code failed;
  for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed))
    out.push_back(at->path());
  std::ranges::sort(out);
  return out;
}

void remove_file(const fs::path& path, Reclaimed& reclaimed) {
  std::error_code failed;
  const auto bytes = fs::is_regular_file(fs::symlink_status(path, failed)) ? fs::file_size(path, failed) : 0;
  if (!fs::remove(path, failed)) return;
  ++reclaimed.files;
  reclaimed.bytes.count += failed ? 0 : bytes;
}

std::string not_here(const std::string& name, const std::vector<Manifest>& all) {
  std::string type;
  if (looks_like_reference(name))
    type = name;
  else if (name.find('/') != std::string::npos)
    type = "hf:" + name;
  else
    type = "ollama:" + name;
  const bool sane = parse_reference(type).has_value();
  return fmt::format("there is no pulled model '{}'{}; to fetch one: ashlar pull {}", plain(name),
                     all.empty() ? "" : " (`ashlar list` shows those that there are)", sane ? type : "hf:ORG/REPO");
}

Poll listening(const PullWatch& watch, const PullProgress& progress) {
  return [&] { return watch(progress); };
}

// What is told of one more file's way, as that of all of them.
DownloadWatch of_whole(const PullWatch& watch, PullProgress& progress) {
  return [&, before = progress.done](const DownloadProgress& file) {
    progress.stage = file.stage;
    if (file.stage == Stage::fetching) progress.done = before + file.done;
    return watch(progress);
  };
}

}  // namespace

StoreOptions store_options_from_environment() {
  StoreOptions options{.store = environment("ASHLAR_STORE"), .object_store = environment("ASHLAR_OBJECT_STORE")};
  const std::string offline = net::lower(environment("ASHLAR_OFFLINE"));
  options.offline = !offline.empty() && offline != "0" && offline != "false" && offline != "no" && offline != "off";
  return options;
}

std::string default_store_folder() {
  if (const auto data = environment("XDG_DATA_HOME"); data.starts_with('/')) return data + "/ashlar";
  if (const auto home = environment("HOME"); home.starts_with('/')) return home + "/.local/share/ashlar";
  return "";
}

ModelStore::ModelStore(Parts parts, std::string root, std::unique_ptr<Courier> courier, std::unique_ptr<Blobs> cold)
    : parts_(std::move(parts)), root_(std::move(root)), courier_(std::move(courier)), cold_(std::move(cold)) {}

Result<std::unique_ptr<ModelStore>> ModelStore::open(Parts parts) {
  std::string root = parts.options.store.empty() ? default_store_folder() : parts.options.store;
  if (root.empty()) return Error{Code::invalid, "no folder for models is known: set --store or ASHLAR_STORE"};
  std::error_code failed;
  root = fs::absolute(root, failed).lexically_normal().string();
  parts.courier.offline = parts.options.offline;
  parts.download.connections = std::clamp(parts.options.pull_connections, 1, 64);
  auto courier = TRY(Courier::create(parts.courier));
  std::unique_ptr<Blobs> cold;
  if (!parts.options.object_store.empty())
    cold = TRY(open_blobs(parts.options.object_store, *courier, parts.hubs, parts.download));
  return std::unique_ptr<ModelStore>(
      new ModelStore(std::move(parts), std::move(root), std::move(courier), std::move(cold)));
}

Result<std::unique_ptr<ModelStore>> ModelStore::open(const StoreOptions& options) {
  return open({.options = options,
               .hubs = hub_settings_from_environment(),
               .courier = {.proxies = net::ProxyRules(net::proxy_settings_from_environment())}});
}

std::string ModelStore::in(std::string_view folder, std::string_view name) const {
  return fmt::format("{}/{}/{}", root_, folder, name);
}

std::string ModelStore::manifest_path(const std::string& reference) const {
  return in("manifests", slot_of(reference) + ".json");
}

std::string ModelStore::view_path(const Manifest& manifest) const { return in("models", slot_of(manifest.reference)); }

Status ModelStore::make_rooms() const {
  for (const char* room : {"blobs", "seals", "manifests", "models", "partial", "aside"})
    TRY(make_folders(fmt::format("{}/{}", root_, room)));
  return {};
}

// --- what is here

Shelf ModelStore::list() const {
  Shelf shelf;
  for (const fs::path& path : entries_of(root_ + "/manifests")) {
    if (path.extension() != ".json") continue;
    auto manifest = [&]() -> Result<Manifest> {
      const std::string text = TRY(read_small_file(path.string(), kMostManifest));
      Manifest read = TRY(read_manifest(text));
      if (path.filename() != slot_of(read.reference) + ".json")
        return Error{Code::corrupt, "it is of " + read.reference};
      return read;
    }();
    if (manifest)
      shelf.models.push_back(std::move(*manifest));
    else if (manifest.error().code != Code::not_found)  // removed by somebody, between two looks
      shelf.damaged.push_back({Code::corrupt, fmt::format("{}: the manifest cannot be used: {}; pull its model again, "
                                                          "or remove this file",
                                                          path.string(), manifest.error().message)});
  }
  std::ranges::sort(shelf.models, {}, &Manifest::reference);
  return shelf;
}

Result<std::vector<Manifest>> ModelStore::all_models() const {
  Shelf shelf = list();
  if (!shelf.damaged.empty()) return shelf.damaged.front();
  return std::move(shelf.models);
}

Result<Manifest> ModelStore::find(const std::string& name) const {
  const Shelf shelf = list();
  const std::vector<Manifest>& all = shelf.models;
  // "ollama:qwen3" is "ollama:qwen3:latest".
  const auto parsed = looks_like_reference(name) ? parse_reference(name) : Result<Reference>(Error{});
  const std::string wanted = net::lower(parsed ? parsed->text() : name);
  const auto holds = [&](const std::vector<std::string>& names) {
    return std::ranges::any_of(names, [&](const std::string& each) { return net::lower(each) == wanted; });
  };
  std::vector<const Manifest*> loose;
  for (const Manifest& manifest : all) {
    const ModelNames names = names_of(manifest);
    if (holds(names.full)) return manifest;
    if (holds(names.loose)) loose.push_back(&manifest);
  }
  if (loose.size() == 1) return *loose.front();
  if (loose.empty())
    return Error{Code::not_found,
                 not_here(name, all) + (shelf.damaged.empty() ? "" : "; " + shelf.damaged.front().message)};
  std::vector<std::string> references;
  for (const Manifest* each : loose) references.push_back(each->reference);
  return Error{Code::invalid,
               fmt::format("'{}' may be any of {}: say which", plain(name), fmt::join(references, ", "))};
}

std::int64_t ModelStore::used_at(const Manifest& manifest) const {
  struct stat info{};
  return ::stat(manifest_path(manifest.reference).c_str(), &info) == 0 ? info.st_mtim.tv_sec : 0;
}

Result<bool> ModelStore::is_intact(const std::string& digest, std::uint64_t size, const Poll& poll) const {
  const std::string path = blob_path(digest);
  const auto look = look_of(path);
  if (!look) return false;
  if (const auto sealed = read_small_file(seal_path(digest), 256); sealed && *sealed == *look) return true;
  PartFile part = TRY(PartFile::look_at(path));
  const auto arrived = check_arrived({.name = path, .size = size, .sha256 = digest}, part,
                                     [&](const DownloadProgress&) { return poll(); });
  if (arrived) {
    TRY(seal(digest));
    return true;
  }
  if (arrived.error().code != Code::corrupt && arrived.error().code != Code::io) return arrived.error();
  log::warn("stored_file_damaged", {{"path", path}, {"why", arrived.error().message}});
  TRY(part.set_aside(in("aside", fmt::format("sha256-{}.{}", digest, std::time(nullptr)))));
  return false;
}

Status ModelStore::seal(const std::string& digest) const {
  const auto look = look_of(blob_path(digest));
  if (!look) return {};
  return write_small_file(seal_path(digest), *look);
}

// --- what comes

Result<FolderLock> ModelStore::share(PullProgress& progress, const PullWatch& watch) const {
  const Stage before = std::exchange(progress.stage, Stage::waiting);
  while (true) {
    auto lock = FolderLock::take(root_ + "/lock", FolderLock::Kind::shared);
    if (!lock && lock.error().code == Code::unavailable) {
      TRY(wait_polling(std::chrono::milliseconds(50), listening(watch, progress)));
      continue;
    }
    progress.stage = before;
    return lock;
  }
}

Result<Manifest> ModelStore::pull(const PullRequest& request, const PullWatch& watch) {
  return pull_version(request, request.reference, watch);
}

// `asked` is the request's reference, or the same at a known commit.
Result<Manifest> ModelStore::pull_version(const PullRequest& request, const Reference& asked, const PullWatch& watch) {
  TRY(courier_->check_online(request.reference.text()));
  TRY(make_rooms());
  PullProgress progress{.stage = Stage::waiting};
  const FolderLock lock = TRY(share(progress, watch));
  progress.stage = Stage::listing;
  Listing listing = TRY(list_model(*courier_, parts_.hubs, asked, listening(watch, progress)));
  if (!request.sha256.empty()) {
    if (listing.files.size() != 1)
      return Error{Code::invalid, fmt::format("{}: a sha256 is given, but it stands for {} files", asked.text(),
                                              listing.files.size())};
    listing.files[0].sha256 = request.sha256;
  }
  TRY(check_alias(request));
  const std::string path = manifest_path(request.reference.text());
  const auto old = [&]() -> std::optional<Manifest> {
    const auto text = read_small_file(path, kMostManifest);
    if (!text) return std::nullopt;
    auto manifest = read_manifest(*text);
    return manifest ? std::optional(std::move(*manifest)) : std::nullopt;
  }();
  Manifest manifest{.reference = request.reference.text(),
                    .alias = request.alias.empty() && old ? old->alias : request.alias,
                    .endpoint = listing.endpoint,
                    .version = listing.version,
                    .licence = listing.licence,
                    .pulled_at = std::time(nullptr)};
  std::vector<Wanted> missing;
  for (const Wanted& wanted : listing.files) {
    progress.total += wanted.size.value_or(0);
    auto here = TRY(find_here(wanted, old ? old->files : std::vector<StoredFile>(), listening(watch, progress)));
    if (!here) {
      missing.push_back(wanted);
      continue;
    }
    progress.done += here->size;
    manifest.files.push_back(*std::move(here));
  }
  TRY(check_room(missing));
  for (const Wanted& wanted : missing) manifest.files.push_back(TRY(fetch(wanted, watch, progress)));
  std::ranges::sort(manifest.files, {}, &StoredFile::name);
  TRY(make_view(manifest));
  TRY(write_small_file(path, dump_json(manifest_json(manifest)) + "\n"));
  sync_folder_of(path);
  return manifest;
}

// A file without a sha256 is known by git's name for it, as it was pulled before.
Result<std::optional<StoredFile>> ModelStore::find_here(const Wanted& wanted, const std::vector<StoredFile>& old,
                                                        const Poll& poll) const {
  if (!wanted.size) return std::nullopt;
  StoredFile here{.name = wanted.name,
                  .size = *wanted.size,
                  .sha256 = wanted.sha256,
                  .git_sha1 = wanted.git_sha1,
                  .checked_by = "sha256"};
  if (here.sha256.empty() && !wanted.git_sha1.empty())
    for (const StoredFile& file : old)
      if (file.name == wanted.name && file.git_sha1 == wanted.git_sha1) here = file;
  if (here.sha256.empty() || !TRY(is_intact(here.sha256, here.size, poll))) return std::nullopt;
  return here;
}

Status ModelStore::check_alias(const PullRequest& request) const {
  if (request.alias.empty()) return {};
  if (looks_like_reference(request.alias) || request.alias.find('=') != std::string::npos ||
      !check_file_name(request.alias))
    return Error{Code::invalid, fmt::format("'{}' cannot be a model's name", plain(request.alias))};
  for (const Manifest& other : list().models)
    if (net::lower(other.alias) == net::lower(request.alias) && other.reference != request.reference.text())
      return Error{Code::invalid, fmt::format("'{}' is already the name of {}", plain(request.alias), other.reference)};
  return {};
}

Status ModelStore::check_room(const std::vector<Wanted>& missing) const {
  std::uint64_t needed = 0;
  for (const Wanted& wanted : missing) {
    struct stat info{};
    const bool begun = ::stat(in("partial", partial_name(wanted)).c_str(), &info) == 0;
    const std::uint64_t taken = begun ? static_cast<std::uint64_t>(info.st_blocks) * 512 : 0;
    needed += wanted.size.value_or(0) - std::min(wanted.size.value_or(0), taken);
    if (needed > std::uint64_t{1} << 50) return Error{Code::too_large, "the hub names sizes that no disk has"};
  }
  struct statvfs info{};
  if (::statvfs(root_.c_str(), &info) != 0) return {};
  const std::uint64_t free = info.f_bavail * info.f_frsize;
  if (needed <= free) return {};
  return Error{Code::io, fmt::format("{}: the disk is full: {} are needed and {} are free", root_,
                                     to_string(Bytes{needed}), to_string(Bytes{free}))};
}

Result<bool> ModelStore::warm(const StoredFile& file, const PullWatch& watch, PullProgress& progress) {
  const std::uint64_t before = progress.done;
  progress.file = file.name;
  const DownloadWatch download_watch = of_whole(watch, progress);
  const Poll poll = listening(watch, progress);
  const auto size = cold_->size(file.sha256, poll);
  if (!size || *size != file.size) return false;
  PartFile part = TRY(PartFile::open(in("partial", "sha256-" + file.sha256), poll));
  const auto arrived = [&]() -> Result<Arrived> {
    TRY(cold_->get(file.sha256, file.size, part, download_watch));
    return check_arrived({.name = file.name, .size = file.size, .sha256 = file.sha256}, part, download_watch);
  }();
  if (!arrived) {
    if (arrived.error().code == Code::cancelled || arrived.error().code == Code::io) return arrived.error();
    log::warn("not_from_object_store", {{"file", file.name}, {"why", arrived.error().message}});
    part.discard();
    progress.done = before;
    return false;
  }
  TRY(part.commit(blob_path(file.sha256)));
  TRY(seal(file.sha256));
  progress.done = before + file.size;
  return true;
}

Result<StoredFile> ModelStore::fetch(const Wanted& wanted, const PullWatch& watch, PullProgress& progress) {
  const std::uint64_t before = progress.done;
  progress.file = wanted.name;
  const DownloadWatch download_watch = of_whole(watch, progress);
  const Poll waiting = [&] { return download_watch({.stage = Stage::waiting}); };
  for (bool again = false;; again = true) {
    PartFile part = TRY(PartFile::open(in("partial", partial_name(wanted)), waiting));
    if (!wanted.sha256.empty() && wanted.size && TRY(is_intact(wanted.sha256, *wanted.size, waiting))) {
      part.discard();  // another process was quicker
      progress.done = before + *wanted.size;
      return StoredFile{.name = wanted.name,
                        .size = *wanted.size,
                        .sha256 = wanted.sha256,
                        .git_sha1 = wanted.git_sha1,
                        .checked_by = "sha256"};
    }
    const Wanted learnt = TRY(download(*courier_, wanted, parts_.download, part, download_watch));
    auto arrived = check_arrived(learnt, part, download_watch);
    if (!arrived) {
      const Error& error = arrived.error();
      if (error.code == Code::unsupported) part.discard();
      if (error.code != Code::corrupt) return error;
      TRY(part.set_aside(in("aside", fmt::format("{}.{}", partial_name(wanted), std::time(nullptr)))));
      log::warn("wrong_checksum", {{"file", wanted.name}, {"why", error.message}, {"again", !again}});
      if (again) return Error{Code::corrupt, error.message + "; it was fetched twice and set aside"};
      continue;
    }
    if (look_of(blob_path(arrived->sha256)))
      part.discard();
    else
      TRY(part.commit(blob_path(arrived->sha256)));
    TRY(seal(arrived->sha256));
    progress.done = before + arrived->size;
    progress.total = std::max(progress.total, progress.done);
    return StoredFile{.name = wanted.name,
                      .size = arrived->size,
                      .sha256 = arrived->sha256,
                      .git_sha1 = wanted.git_sha1,
                      .checked_by = arrived->checked_by};
  }
}

// Links, relative so that the store may move.
Status ModelStore::make_view(const Manifest& manifest) const {
  const std::string view = view_path(manifest);
  TRY(make_folders(view));
  std::set<fs::path> wanted;
  for (const StoredFile& file : manifest.files) {
    const fs::path link = fs::path(view) / file.name;
    TRY(make_folders(link.parent_path().string()));
    wanted.insert(link);
    std::string target = "../../";
    for (std::size_t i = 0; i < static_cast<std::size_t>(std::ranges::count(file.name, '/')); ++i) target += "../";
    target += "blobs/sha256-" + file.sha256;
    std::error_code failed;
    if (fs::read_symlink(link, failed) == target) continue;
    const fs::path aside = fmt::format("{}.{}.new", link.string(), ::getpid());
    fs::remove(aside, failed);
    fs::create_symlink(target, aside, failed);
    if (!failed) fs::rename(aside, link, failed);
    if (failed) return Error{Code::io, fmt::format("{}: {}", link.string(), failed.message())};
  }
  // What an earlier version had.
  std::error_code failed;
  std::vector<fs::path> stale;
  for (fs::recursive_directory_iterator at(view, failed), end; !failed && at != end; at.increment(failed))
    if (at->is_symlink(failed) && !wanted.contains(at->path())) stale.push_back(at->path());
  for (const fs::path& path : stale) fs::remove(path, failed);
  return {};
}

Result<Found> ModelStore::ready(const std::string& name, const PullWatch& watch) {
  Manifest manifest = TRY(find(name));
  PullProgress progress{.stage = Stage::checking, .total = manifest.bytes()};
  const Poll poll = listening(watch, progress);
  std::vector<std::string> missing;
  for (const StoredFile& file : manifest.files) {
    progress.file = file.name;
    progress.stage = Stage::checking;
    const std::uint64_t before = progress.done;
    bool here = TRY(is_intact(file.sha256, file.size, poll));
    if (!here && cold_) {
      TRY(make_rooms());
      const FolderLock lock = TRY(share(progress, watch));
      here = TRY(warm(file, watch, progress));
    }
    if (!here) missing.push_back(file.name);
    progress.done = before + file.size;
  }
  if (!missing.empty()) {
    const Reference reference = TRY(parse_reference(manifest.reference));
    if (const Status online = courier_->check_online(manifest.reference); !online)
      return Error{Code::unavailable,
                   fmt::format("{}: {} of its files are missing or damaged here ({}); {}", manifest.reference,
                               missing.size(), missing[0], online.error().message)};
    Reference exact = reference;
    if (reference.kind == HubKind::hugging_face && !manifest.version.empty()) exact.revision = manifest.version;
    manifest = TRY(pull_version({.reference = reference}, exact, watch));
  }
  TRY(make_view(manifest));
  ::utimensat(AT_FDCWD, manifest_path(manifest.reference).c_str(), nullptr, 0);
  const StoredFile* served = manifest.served();
  std::string path = view_path(manifest);
  if (served != nullptr) path += "/" + served->name;
  return Found{.manifest = std::move(manifest), .path = std::move(path)};
}

// --- what goes

Result<Reclaimed> ModelStore::remove(const std::string& name) {
  const Manifest manifest = TRY(find(name));
  std::error_code failed;
  if (!fs::remove(manifest_path(manifest.reference), failed))
    return Error{Code::io,
                 fmt::format("{}: cannot be removed: {}", manifest_path(manifest.reference), failed.message())};
  fs::remove_all(view_path(manifest), failed);
  Reclaimed reclaimed;
  const auto lock = FolderLock::take(root_ + "/lock", FolderLock::Kind::exclusive);
  if (!lock) return reclaimed;  // somebody is pulling, perhaps the same bytes: they are left to gc
  const auto others = all_models();
  if (!others) return reclaimed;  // who knows what that one needs
  std::set<std::string> needed;
  for (const Manifest& other : *others)
    for (const StoredFile& file : other.files) needed.insert(file.sha256);
  for (const StoredFile& file : manifest.files) {
    if (!needed.insert(file.sha256).second) continue;
    remove_file(blob_path(file.sha256), reclaimed);
    fs::remove(seal_path(file.sha256), failed);
  }
  return reclaimed;
}

Result<Reclaimed> ModelStore::gc(bool partial) {
  std::error_code failed;
  if (!fs::is_directory(root_, failed)) return Reclaimed{};
  const FolderLock lock = TRY(FolderLock::take(root_ + "/lock", FolderLock::Kind::exclusive));
  return sweep(partial);
}

bool ModelStore::is_here(const Manifest& manifest) const {
  return std::ranges::all_of(manifest.files,
                             [&](const StoredFile& file) { return look_of(blob_path(file.sha256)).has_value(); });
}

Result<Reclaimed> ModelStore::cool(Bytes most, const PullWatch& watch) {
  if (!cold_)
    return Error{Code::invalid,
                 "there is no object store to move models to: set --object-store or ASHLAR_OBJECT_STORE"};
  TRY(make_rooms());
  const FolderLock lock = TRY(FolderLock::take(root_ + "/lock", FolderLock::Kind::exclusive));
  std::vector<Manifest> models = TRY(all_models());
  std::ranges::sort(models, std::ranges::greater(), [&](const Manifest& manifest) { return used_at(manifest); });
  // From the latest used on, while they fit: what these need stays.
  std::set<std::string> stays;
  std::uint64_t bytes = 0;
  std::vector<const StoredFile*> goes;
  bool full = false;
  for (const Manifest& model : models) {
    std::uint64_t more = 0;
    for (const StoredFile& file : model.files) more += stays.contains(file.sha256) ? 0 : file.size;
    full = full || bytes + more > most.count;
    if (!full) bytes += more;
    for (const StoredFile& file : model.files)
      if (!full)
        stays.insert(file.sha256);
      else
        goes.push_back(&file);
  }
  Reclaimed reclaimed;
  PullProgress progress{.stage = Stage::fetching};
  const Poll poll = listening(watch, progress);
  std::error_code failed;
  for (const StoredFile* file : goes) {
    if (!stays.insert(file->sha256).second || !look_of(blob_path(file->sha256))) continue;
    progress.file = file->name;
    if (!TRY(is_intact(file->sha256, file->size, poll))) continue;
    if (TRY(cold_->size(file->sha256, poll)) != file->size)
      TRY(cold_->put(file->sha256, blob_path(file->sha256), poll));
    remove_file(blob_path(file->sha256), reclaimed);
    fs::remove(seal_path(file->sha256), failed);
  }
  return reclaimed;
}

Result<Reclaimed> ModelStore::sweep(bool partial) const {
  std::set<std::string> needed, slots;
  for (const Manifest& manifest : TRY(all_models())) {
    slots.insert(slot_of(manifest.reference));
    for (const StoredFile& file : manifest.files) needed.insert("sha256-" + file.sha256);
  }
  Reclaimed reclaimed;
  std::error_code failed;
  for (const fs::path& path : entries_of(root_ + "/blobs"))
    if (!needed.contains(path.filename().string())) remove_file(path, reclaimed);
  for (const fs::path& path : entries_of(root_ + "/seals"))
    if (!needed.contains(path.filename().string())) fs::remove(path, failed);
  for (const fs::path& path : entries_of(root_ + "/models"))
    if (!slots.contains(path.filename().string())) fs::remove_all(path, failed);
  for (const fs::path& path : entries_of(root_ + "/aside")) remove_file(path, reclaimed);
  const auto oldest = fs::file_time_type::clock::now() - kPartialsKept;
  for (const fs::path& path : entries_of(root_ + "/partial"))
    if (partial || fs::last_write_time(path, failed) < oldest) remove_file(path, reclaimed);
  return reclaimed;
}

}  // namespace ashlar::store
