#include "models/packed_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/descriptor.h"

namespace ashlar::models {
namespace {

static_assert(std::endian::native == std::endian::little, "the header is written as it lies");

constexpr char kMagic[8] = {'A', 'S', 'H', 'P', 'A', 'C', 'K', '\n'};
constexpr std::uint32_t kFormat = 1;
constexpr std::size_t kPage = 4096, kLargePage = 2u << 20, kLine = 64;
constexpr std::uint64_t kMostSections = 1 << 16;

struct Front {
  char magic[8];
  std::uint32_t format, sections;
  std::uint64_t bytes;
  PackedKey key;
  std::uint64_t sample, check;
};
static_assert(sizeof(Front) == 56);

std::uint64_t whole_pages(std::uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

std::uint64_t mixed(std::uint64_t x) {
  x *= 0x9FB21C651E98DF25;
  return x ^ x >> 29;
}

Error corrupt(std::string what) { return Error{Code::corrupt, std::move(what)}; }

// All of `out` from `offset` on; what went wrong, if not.
Status read_at(int fd, std::span<std::byte> out, std::size_t offset) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{Code::io, std::strerror(errno)};
    if (n == 0) return corrupt("the file ends too early");
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::size_t>(n);
  }
  return {};
}

}  // namespace

void Digest::add(std::span<const std::byte> bytes) {
  std::size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32)
    for (std::size_t lane = 0; lane < 4; ++lane) {
      std::uint64_t word;
      std::memcpy(&word, bytes.data() + at + 8 * lane, 8);
      lanes_[lane] = mixed(lanes_[lane] ^ word);
    }
  for (; at < bytes.size(); at += std::min<std::size_t>(8, bytes.size() - at)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<std::size_t>(8, bytes.size() - at));
    lanes_[at / 8 % 4] = mixed(lanes_[at / 8 % 4] ^ word);
  }
  add(bytes.size());
}

void Digest::add(std::uint64_t number) {
  for (std::size_t lane = 0; lane < 4; ++lane) lanes_[lane] = mixed(lanes_[lane] ^ (number + lane));
}

PackedKey Digest::value() const {
  const auto joined = [](std::uint64_t a, std::uint64_t b) { return mixed(mixed(a) + std::rotl(b, 23)); };
  const std::uint64_t first = joined(lanes_[0], lanes_[1]), second = joined(lanes_[2], lanes_[3]);
  return {joined(first, second), joined(second, ~first)};
}

std::uint64_t packed_header_check(std::span<const std::byte, 56> front, std::span<const std::byte> table) {
  Digest digest;
  digest.add(front.first<offsetof(Front, check)>());
  digest.add(table);
  return digest.value()[0];
}

Result<PackedHeader> parse_packed_header(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  Front front;
  if (bytes.size() < sizeof front) return corrupt("the file ends within its header");
  std::memcpy(&front, bytes.data(), sizeof front);
  if (std::memcmp(front.magic, kMagic, sizeof kMagic) != 0) return corrupt("the file does not begin with \"ASHPACK\"");
  if (front.format != kFormat) return corrupt(fmt::format("format {}; {} is expected", front.format, kFormat));
  if (front.bytes != file_bytes)
    return corrupt(fmt::format("the file has {} bytes; its header says {}", file_bytes, front.bytes));
  if (front.sections > kMostSections || bytes.size() - sizeof front < front.sections * sizeof(std::uint64_t))
    return corrupt(fmt::format("a table of {} sections is not there", front.sections));
  const auto table = bytes.subspan(sizeof front, front.sections * sizeof(std::uint64_t));
  if (packed_header_check(bytes.first<sizeof front>(), table) != front.check)
    return corrupt("the header's sum is wrong");
  PackedHeader header{.key = front.key, .sample = front.sample, .sections = {}};
  header.sections.resize(front.sections);
  if (!table.empty()) std::memcpy(header.sections.data(), table.data(), table.size());
  std::uint64_t end = whole_pages(sizeof front + table.size());
  for (const std::uint64_t section : header.sections) {
    if (section > file_bytes || end > file_bytes - section) return corrupt("a section goes beyond the file");
    end += whole_pages(section);
  }
  if (end != file_bytes) return corrupt(fmt::format("the sections end at {}, the file at {}", end, file_bytes));
  return header;
}

void PackedImage::place(std::span<const std::size_t> sections) {
  front_ = whole_pages(sizeof(Front) + sections.size() * sizeof(std::uint64_t));
  bytes_ = front_;
  for (const std::size_t section : sections) {
    sections_.push_back({bytes_, section});
    bytes_ += whole_pages(section);
  }
}

Result<std::shared_ptr<PackedImage>> PackedImage::allocate(std::span<const std::size_t> sections) {
  std::shared_ptr<PackedImage> image(new PackedImage());
  image->place(sections);
  image->memory_ = TRY(kernels::HugeMemory::allocate(image->bytes_));
  image->data_ = image->memory_.data();
  return image;
}

Result<std::shared_ptr<PackedImage>> PackedImage::open(const std::string& path, const PackedKey& key,
                                                       std::span<const std::size_t> sections, ThreadPool& pool) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0)
    return Error{errno == ENOENT ? Code::not_found : Code::io, fmt::format("{}: {}", path, std::strerror(errno))};
  struct stat info{};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return corrupt(fmt::format("{}: not a regular file", path));
  // Whoever may write here decides what the model says.
  if ((info.st_uid != ::geteuid() && info.st_uid != 0) || (info.st_mode & S_IWOTH) != 0)
    return corrupt(fmt::format("{}: another user may have written it", path));
  std::shared_ptr<PackedImage> image(new PackedImage());
  image->place(sections);
  const auto wrong = [&](std::string_view what) { return corrupt(fmt::format("{}: {}", path, what)); };
  const auto file_bytes = static_cast<std::uint64_t>(info.st_size);
  std::vector<std::byte> front(std::min<std::uint64_t>(image->front_, file_bytes));
  if (const auto read = read_at(file.get(), front, 0); !read) return wrong(read.error().message);
  const auto header = parse_packed_header(front, file_bytes);
  if (!header) return wrong(header.error().message);
  if (header->key != key) return wrong("the weights of another model");
  if (!std::ranges::equal(header->sections, sections)) return wrong("the weights have other sizes");

  TRY(image->map(file.get()));
  if (!image->on_large_pages())
    if (const auto copied = image->copy(file.get(), path, pool); !copied && copied.error().code != Code::exhausted)
      return std::unexpected(copied.error());
  if (image->sample(pool) != header->sample) return wrong("its contents have changed");
  return image;
}

PackedImage::~PackedImage() {
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_);
}

// At a multiple of 2 MiB, so that large pages of the file can be large pages here.
Status PackedImage::map(int fd) {
  void* const start =
      ::mmap(nullptr, bytes_ + kLargePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return Error{Code::exhausted, "no addresses for the packed weights"};
  auto* const first = static_cast<std::byte*>(start);
  const std::size_t before = (kLargePage - reinterpret_cast<std::uintptr_t>(first) % kLargePage) % kLargePage;
  std::byte* const at = first + before;
  if (before > 0) ::munmap(first, before);
  ::munmap(at + bytes_, kLargePage - before);  // bytes_ is whole pages
  if (::mmap(at, bytes_, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    const int reason = errno;
    ::munmap(at, bytes_);
    return Error{Code::io, fmt::format("the packed weights cannot be mapped: {}", std::strerror(reason))};
  }
  ::madvise(at, bytes_, MADV_HUGEPAGE);  // what is not in memory yet is read in large pages
  mapping_ = at;
  data_ = at;
  origin_ = Origin::mapped;
  return {};
}

// Looks at a few places: whether the system holds the file in large pages is the
// same throughout a file, for it is written in one go.
bool PackedImage::on_large_pages() const {
  constexpr std::size_t kProbes = 8;
  const std::size_t large = bytes_ / kLargePage;
  if (large == 0) return false;
  std::size_t probes = 0;
  std::size_t last = large;
  for (std::size_t i = 0; i < kProbes; ++i) {
    const std::size_t page = large * i / kProbes;
    if (page == last) continue;
    last = page;
    ++probes;
    static_cast<void>(*static_cast<const volatile std::byte*>(data_ + page * kLargePage));
  }
  std::ifstream maps("/proc/self/smaps");
  const std::string ours = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(data_));
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    if (!here) {
      here = line.starts_with(ours);
    } else if (line.starts_with("FilePmdMapped:")) {
      return (std::strtoull(line.c_str() + 14, nullptr, 10) << 10) * 2 >= probes * kLargePage;
    }
  }
  return false;
}

Status PackedImage::copy(int fd, const std::string& path, ThreadPool& pool) {
  constexpr std::size_t kPiece = 4 * kLargePage;
  auto memory = TRY(kernels::HugeMemory::allocate(bytes_));
  const std::span<std::byte> out(memory.data(), bytes_);
  const auto pieces = static_cast<int>((bytes_ + kPiece - 1) / kPiece);
  std::atomic<bool> failed{false};
  pool.for_each(pieces, [&](int piece, int) {
    const std::size_t begin = kPiece * static_cast<std::size_t>(piece);
    if (!read_at(fd, out.subspan(begin, std::min(kPiece, bytes_ - begin)), begin)) failed = true;
  });
  if (failed) return corrupt(fmt::format("{}: cannot be read to its end", path));
  ::munmap(mapping_, bytes_);
  mapping_ = nullptr;
  memory_ = std::move(memory);
  data_ = memory_.data();
  origin_ = Origin::copied;
  return {};
}

// Also brings every page in, on all threads, before the first token asks for it.
std::uint64_t PackedImage::sample(ThreadPool& pool) const {
  constexpr std::size_t kPiece = kLargePage;
  const std::size_t pieces = (bytes_ + kPiece - 1) / kPiece;
  std::atomic<std::uint64_t> sum{0};
  pool.for_each(static_cast<int>(pieces), [&](int piece, int) {
    std::uint64_t part = 0;
    const std::size_t begin = std::max(front_, kPiece * static_cast<std::size_t>(piece));
    const std::size_t end = std::min(bytes_, kPiece * (static_cast<std::size_t>(piece) + 1));
    for (std::size_t page = begin; page < end; page += kPage) {
      Digest digest;
      digest.add(page);
      digest.add(std::span(data_ + page + page / kPage * 37 % (kPage / kLine) * kLine, kLine));
      part += digest.value()[0];
    }
    sum += part;
  });
  return sum;
}

std::span<const std::byte> PackedImage::section(std::size_t index) const {
  return bytes().subspan(sections_[index].offset, sections_[index].bytes);
}

std::span<std::byte> PackedImage::room(std::size_t index) {
  CHECK(origin_ == Origin::fresh, "what comes from a file stays as it is");
  return {memory_.data() + sections_[index].offset, sections_[index].bytes};
}

void PackedImage::seal(const PackedKey& key, ThreadPool& pool) {
  CHECK(origin_ == Origin::fresh, "what comes from a file has its header");
  Front front{.magic = {},
              .format = kFormat,
              .sections = static_cast<std::uint32_t>(sections_.size()),
              .bytes = bytes_,
              .key = key,
              .sample = sample(pool),
              .check = 0};
  std::memcpy(front.magic, kMagic, sizeof kMagic);
  std::vector<std::uint64_t> sizes;
  for (const Place& place : sections_) sizes.push_back(place.bytes);
  front.check =
      packed_header_check(std::as_bytes(std::span<const Front, 1>(&front, 1)), std::as_bytes(std::span(sizes)));
  std::memcpy(memory_.data(), &front, sizeof front);
  if (!sizes.empty()) std::memcpy(memory_.data() + sizeof front, sizes.data(), sizes.size() * sizeof(std::uint64_t));
}

}  // namespace ashlar::models
