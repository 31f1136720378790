#include "models/packed_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/descriptor.h"
#include "base/log.h"
#include "kernels/kernels.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".packed", kAside = ".packed.tmp";

Error refused(std::string_view path, std::string_view what) {
  return Error{Code::io, fmt::format("{}: {}: {}", path, what, std::strerror(errno))};
}

// A file that is being written: named `path`, locked, and gone with us unless it was renamed.
class Aside {
 public:
  static Result<Aside> create(const std::string& path) {
    Aside aside(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (aside.fd_ < 0) return refused(path, "cannot be written");
    if (::flock(aside.fd_, LOCK_EX | LOCK_NB) != 0)
      return Error{Code::cancelled, fmt::format("{}: somebody else is writing it", path)};
    // Between opening and locking, whoever wrote it may have renamed or removed it.
    struct stat here{}, there{};
    if (::fstat(aside.fd_, &here) != 0 || ::lstat(path.c_str(), &there) != 0 || here.st_ino != there.st_ino ||
        here.st_dev != there.st_dev)
      return Error{Code::cancelled, fmt::format("{}: somebody else has just written it", path)};
    aside.ours_ = true;
    if (::ftruncate(aside.fd_, 0) != 0) return refused(path, "cannot be written");
    return aside;
  }
  Aside(Aside&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), ours_(std::exchange(other.ours_, false)) {}
  Aside& operator=(Aside&&) = delete;
  ~Aside() {
    if (ours_) ::unlink(path_.c_str());  // before the lock goes with the descriptor
    if (fd_ >= 0) ::close(fd_);
  }

  // In pieces of whole 2 MiB, for the system then keeps the file in pages of 2 MiB, which can be mapped as such.
  Status write(std::span<const std::byte> bytes, FunctionRef<bool()> stopped) {
    constexpr std::size_t kPiece = 8u << 20;
    if (::fallocate(fd_, 0, 0, static_cast<off_t>(bytes.size())) != 0 && errno != EOPNOTSUPP)
      return refused(path_, "cannot be written");
    std::size_t at = 0;
    while (at < bytes.size()) {
      if (stopped()) return Error{Code::cancelled, fmt::format("{}: stopped while it was written", path_)};
      const std::size_t piece = std::min(bytes.size() - at, kPiece - at % kPiece);
      const ssize_t n = ::pwrite(fd_, bytes.data() + at, piece, static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return refused(path_, "cannot be written");
      if (n == 0) return Error{Code::io, fmt::format("{}: cannot be written", path_)};
      // On its way to the disk now, so that the sync at the end is short.
      ::sync_file_range(fd_, static_cast<off_t>(at), static_cast<off_t>(n), SYNC_FILE_RANGE_WRITE);
      at += static_cast<std::size_t>(n);
    }
    if (::fsync(fd_) != 0) return refused(path_, "cannot be written");
    return {};
  }

  Status rename_to(const std::string& path) {
    if (::rename(path_.c_str(), path.c_str()) != 0) return refused(path, "cannot be renamed");
    ours_ = false;
    return {};
  }

 private:
  Aside(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
  bool ours_ = false;
};

// Removes what a writer that was killed left behind.
void remove_orphan(const fs::path& path) { static_cast<void>(Aside::create(path)); }

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string default_folder() {
  if (const auto given = environment("ASHLAR_CACHE"); !given.empty()) return given;
  if (const auto caches = environment("XDG_CACHE_HOME"); caches.starts_with('/')) return caches + "/ashlar";
  if (const auto home = environment("HOME"); home.starts_with('/')) return home + "/.cache/ashlar";
  return "";
}

// "name-PATHHASH-": what the files of all states of one model begin with.
std::string stem(const gguf::File& file) {
  std::error_code ignored;
  const fs::path path = fs::weakly_canonical(file.path(), ignored);
  const fs::path given = file.path();
  std::string name = (given.has_filename() ? given : given.parent_path()).stem().string().substr(0, 60);
  for (char& c : name)
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.')) c = '-';
  Digest digest;
  digest.add(std::as_bytes(std::span(path.native())));
  digest.add(std::as_bytes(std::span(std::string_view(kernels::kernels().isa))));
  return fmt::format("{}-{:08x}-", name, static_cast<std::uint32_t>(digest.value()[0]));
}

std::string stem_of(const std::string& name) { return name.substr(0, name.rfind('-') + 1); }

}  // namespace

std::optional<PackedCache> PackedCache::from(const PackedCacheOptions& options) {
  if (options.packed_cache == "off") return std::nullopt;
  const std::string folder = options.packed_cache == "auto" ? default_folder() : options.packed_cache;
  if (folder.empty()) return std::nullopt;
  return PackedCache(folder + "/packed", options.packed_cache_size);
}

std::optional<PackedKey> PackedCache::key(const gguf::File& file) {
  if (file.parts().empty()) return std::nullopt;
  Digest digest;
  digest.add(std::uint64_t{kernels::kPackedVersion});
  digest.add(std::as_bytes(std::span(std::string_view(kernels::kernels().isa))));
  for (const MappedFile& part : file.parts()) {
    digest.add(part.identity().inode);
    digest.add(part.identity().bytes);
    digest.add(static_cast<std::uint64_t>(part.identity().modified_ns));
  }
  // Names, types and places of all tensors; and since whoever trains a model on changes most of its
  // weights, a few of each.
  for (const gguf::Tensor& tensor : file.tensors()) {
    constexpr std::size_t kSome = 64;
    digest.add(std::as_bytes(std::span(tensor.name)));
    digest.add(static_cast<std::uint64_t>(tensor.type));
    for (const std::int64_t dim : tensor.dims) digest.add(static_cast<std::uint64_t>(dim));
    if (!tensor.data.empty())
      digest.add(static_cast<std::uint64_t>(tensor.data.data() -
                                            file.parts()[static_cast<std::size_t>(tensor.part)].bytes().data()));
    for (const auto& source : file.sources(tensor)) {
      digest.add(source.first(std::min(kSome, source.size())));
      digest.add(source.subspan(source.size() / 2).first(std::min(kSome, source.size() / 2)));
    }
    file.release(tensor);
  }
  // How tensors are put together is up to a folder's other files.
  if (file.assembled())
    for (const gguf::Key& key : file.keys()) {
      if (key.name.starts_with("tokenizer.")) continue;
      digest.add(std::as_bytes(std::span(key.name)));
      digest.add(key.value.bytes);
    }
  return digest.value();
}

std::string PackedCache::path(const gguf::File& file, const PackedKey& key) const {
  return fmt::format("{}/{}{:016x}{}", folder_, stem(file), key[0], kSuffix);
}

std::shared_ptr<PackedImage> PackedCache::find(const std::string& path, const PackedKey& key,
                                               std::span<const std::size_t> sections, ThreadPool& pool) const {
  auto image = PackedImage::open(path, key, sections, pool);
  if (image) {
    ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // used now; where that cannot be noted, it is evicted earlier
    return std::move(*image);
  }
  if (image.error().code != Code::not_found)
    log::warn("packed_cache_unusable", {{"why", image.error().message}, {"then", "the model is packed again"}});
  if (image.error().code == Code::corrupt) ::unlink(path.c_str());
  return nullptr;
}

// Oldest first, until the rest and `bytes` are within the bound.
Status PackedCache::make_room(const std::string& path, std::uint64_t bytes) const {
  struct Kept {
    fs::file_time_type used;
    std::uint64_t bytes;
    fs::path path;
  };
  std::vector<Kept> kept;
  std::uint64_t total = bytes;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(folder_, failed)) {
    const std::string name = entry.path().filename();
    std::error_code gone;
    if (name.ends_with(kAside) && entry.path() != path + ".tmp") remove_orphan(entry.path());
    if (!name.ends_with(kSuffix) || !entry.is_regular_file(gone) || entry.path() == path) continue;
    Kept one{entry.last_write_time(gone), entry.file_size(gone), entry.path()};
    if (gone) continue;
    if (stem_of(name) == stem_of(fs::path(path).filename())) one.used = fs::file_time_type::min();  // replaced by us
    total += one.bytes;
    kept.push_back(std::move(one));
  }
  std::ranges::sort(kept, {}, &Kept::used);
  for (const Kept& one : kept) {
    if (total <= most_.count && one.used != fs::file_time_type::min()) break;
    fs::remove(one.path, failed);  // whoever has it mapped keeps it
    total -= one.bytes;
  }
  struct statvfs disk{};
  if (::statvfs(folder_.c_str(), &disk) != 0) return refused(folder_, "cannot be looked at");
  const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
  if (free / 2 < bytes)
    return Error{Code::exhausted, fmt::format("{}: {} are free; twice the {} of the packed weights are wanted", folder_,
                                              to_string(Bytes{free}), to_string(Bytes{bytes}))};
  return {};
}

Status PackedCache::keep(const std::string& path, const PackedImage& image, FunctionRef<bool()> stopped) const {
  std::error_code failed;
  fs::create_directories(fs::path(folder_).parent_path(), failed);
  if (::mkdir(folder_.c_str(), 0700) != 0 && errno != EEXIST) return refused(folder_, "cannot be made");
  Aside aside = TRY(Aside::create(path + ".tmp"));
  TRY(make_room(path, image.bytes().size()));
  TRY(aside.write(image.bytes(), stopped));
  TRY(aside.rename_to(path));
  sync_folder_of(path);
  return {};
}

PackedKeeper::PackedKeeper(PackedCache cache, std::string path, std::shared_ptr<const PackedImage> image)
    : thread_([cache = std::move(cache), path = std::move(path), image = std::move(image)](std::stop_token stop) {
        using Clock = std::chrono::steady_clock;
        constexpr std::chrono::seconds kGrace{2};
        begin_thread("ashlar-packed");
        ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 19);  // of this thread alone
        // A file above the limit of this process is an error here, not the end of the process.
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGXFSZ);
        pthread_sigmask(SIG_BLOCK, &signals, nullptr);
        const auto start = Clock::now();
        std::optional<Clock::time_point> asked;
        const auto stopped = [&] {
          if (!stop.stop_requested()) return false;
          if (!asked) asked = Clock::now();
          return Clock::now() - *asked > kGrace;
        };
        const auto kept = cache.keep(path, *image, stopped);
        const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
        if (kept)
          log::info("packed_weights_kept", {{"file", path}, {"bytes", to_string({image->bytes().size()})}, {"ms", ms}});
        else if (kept.error().code == Code::cancelled)
          log::debug("packed_weights_not_kept", {{"why", kept.error().message}});
        else
          log::warn("packed_weights_not_kept",
                    {{"why", kept.error().message}, {"then", "the next start packs them again"}});
      }) {}

PackedKeeper::~PackedKeeper() = default;

}  // namespace ashlar::models
