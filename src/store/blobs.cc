#include "store/blobs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "net/http_text.h"
#include "store/files.h"
#include "store/names.h"
#include "store/s3.h"
#include "store/wire.h"
#include "store/xml.h"

namespace ashlar::store {
namespace {

namespace fs = std::filesystem;

// A file read from its beginning.
class Reader {
 public:
  static Result<Reader> open(const std::string& path) {
    Reader reader(path, ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (reader.fd_ < 0) return Error{Code::io, fmt::format("{}: {}", path, std::strerror(errno))};
    return reader;
  }
  Reader(Reader&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  Reader& operator=(Reader&&) = delete;
  ~Reader() {
    if (fd_ >= 0) ::close(fd_);
  }
  // The next bytes, `most` unless the file ends.
  Result<std::string> next(std::size_t most) {
    std::string out(most, '\0');
    std::size_t have = 0;
    while (have < most) {
      const ssize_t n = ::read(fd_, out.data() + have, most - have);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Error{Code::io, fmt::format("{}: {}", path_, std::strerror(errno))};
      if (n == 0) break;
      have += static_cast<std::size_t>(n);
    }
    out.resize(have);
    return out;
  }

 private:
  Reader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
};

constexpr std::size_t kCopy = 4 << 20;

class FolderBlobs final : public Blobs {
 public:
  explicit FolderBlobs(std::string folder) : folder_(std::move(folder)) {}

  Result<std::optional<std::uint64_t>> size(const std::string& sha256, const Poll&) override {
    std::error_code failed;
    const auto bytes = fs::file_size(path_of(sha256), failed);
    return failed ? std::nullopt : std::optional<std::uint64_t>(bytes);
  }

  Status put(const std::string& sha256, const std::string& path, const Poll& poll) override {
    TRY(make_folders(folder_ + "/blobs"));
    Reader reader = TRY(Reader::open(path));
    PartFile part = TRY(PartFile::open(path_of(sha256) + ".partial", poll));
    TRY(part.begin(std::nullopt));
    for (std::uint64_t at = 0;;) {
      const std::string bytes = TRY(reader.next(kCopy));
      if (bytes.empty()) break;
      TRY(part.write(at, bytes));
      at += bytes.size();
      TRY(poll());
    }
    return part.commit(path_of(sha256));
  }

  Status get(const std::string& sha256, std::uint64_t size, PartFile& part, const DownloadWatch& watch) override {
    Reader reader = TRY(Reader::open(path_of(sha256)));
    TRY(part.begin(size));
    for (std::uint64_t at = 0; at < size;) {
      const std::string bytes = TRY(reader.next(std::min<std::uint64_t>(kCopy, size - at)));
      if (bytes.empty()) break;
      TRY(part.write(at, bytes));
      at += bytes.size();
      TRY(watch({.stage = Stage::fetching, .done = at, .total = size}));
    }
    return {};
  }

  Status remove(const std::string& sha256, const Poll&) override {
    std::error_code failed;
    fs::remove(path_of(sha256), failed);
    if (failed) return Error{Code::io, fmt::format("{}: {}", path_of(sha256), failed.message())};
    return {};
  }

 private:
  std::string path_of(const std::string& sha256) const { return fmt::format("{}/blobs/sha256-{}", folder_, sha256); }
  const std::string folder_;
};

// One PUT for a small file, an upload in parts for a large one, which S3 joins at
// the end or forgets when it is aborted.
class S3Blobs final : public Blobs {
 public:
  S3Blobs(Courier& courier, S3Bucket bucket, std::string prefix, const DownloadOptions& options)
      : courier_(courier), bucket_(std::move(bucket)), prefix_(std::move(prefix)), options_(options) {}

  Result<std::optional<std::uint64_t>> size(const std::string& sha256, const Poll& poll) override {
    const auto head = courier_.ask(what(sha256), bucket_.address(key_of(sha256)), {.method = "HEAD"}, poll);
    if (head) return net::parse_decimal(net::find_header(head->headers, "content-length"));
    if (head.error().code == Code::not_found) return std::nullopt;
    return head.error();
  }

  Status put(const std::string& sha256, const std::string& path, const Poll& poll) override {
    Reader reader = TRY(Reader::open(path));
    std::string first = TRY(reader.next(kPart));
    if (first.size() == kPart) return put_parts(sha256, std::move(first), reader, poll);
    TRY(courier_.ask(what(sha256), bucket_.address(key_of(sha256)), {.method = "PUT", .body = std::move(first)}, poll));
    return {};
  }

  Status get(const std::string& sha256, std::uint64_t size, PartFile& part, const DownloadWatch& watch) override {
    const Wanted wanted{
        .name = what(sha256), .address = bucket_.address(key_of(sha256)), .size = size, .sha256 = sha256};
    TRY(download(courier_, wanted, options_, part, watch));
    return {};
  }

  Status remove(const std::string& sha256, const Poll& poll) override {
    TRY(courier_.ask(what(sha256), bucket_.address(key_of(sha256)), {.method = "DELETE"}, poll));
    return {};
  }

 private:
  static constexpr std::size_t kPart = 32 << 20;  // of at most 10,000: 312 GB

  std::string key_of(const std::string& sha256) const { return fmt::format("{}blobs/sha256-{}", prefix_, sha256); }
  std::string what(const std::string& sha256) const {
    return fmt::format("{} ({})", key_of(sha256), bucket_.endpoint());
  }

  Status put_parts(const std::string& sha256, std::string part, Reader& reader, const Poll& poll) {
    const std::string key = key_of(sha256);
    const Document begun = TRY(courier_.ask(what(sha256), bucket_.address(key, "uploads="), {.method = "POST"}, poll));
    const XmlElement answer = TRY(parse_xml(begun.body));
    const std::string upload = "uploadId=" + percent_encode(answer.text_of("UploadId"));
    const Status done = send_parts(sha256, upload, std::move(part), reader, poll);
    // Without it the parts stay there, and are paid for.
    if (!done)
      (void)courier_.ask(what(sha256), bucket_.address(key, upload), {.method = "DELETE"}, [] { return Status(); });
    return done;
  }

  Status send_parts(const std::string& sha256, const std::string& upload, std::string part, Reader& reader,
                    const Poll& poll) {
    std::string list = "<CompleteMultipartUpload>";
    for (int number = 1; !part.empty(); ++number) {
      const Document sent = TRY(
          courier_.ask(what(sha256), bucket_.address(key_of(sha256), fmt::format("partNumber={}&{}", number, upload)),
                       {.method = "PUT", .body = std::move(part)}, poll));
      std::string etag(net::find_header(sent.headers, "etag"));
      std::erase(etag, '"');
      if (!std::ranges::all_of(etag, [](unsigned char c) { return std::isalnum(c) || c == '-'; }))
        return Error{Code::corrupt, fmt::format("{}: the object store names a part oddly", what(sha256))};
      list += fmt::format("<Part><PartNumber>{}</PartNumber><ETag>&quot;{}&quot;</ETag></Part>", number, etag);
      part = TRY(reader.next(kPart));
    }
    const Document joined = TRY(courier_.ask(what(sha256), bucket_.address(key_of(sha256), upload),
                                             {.method = "POST", .body = list + "</CompleteMultipartUpload>"}, poll));
    // A failure while the parts are joined comes as 200.
    const auto answer = parse_xml(joined.body);
    if (!answer || answer->name != "CompleteMultipartUploadResult")
      return Error{Code::unavailable, fmt::format("{}: the object store could not join the parts", what(sha256))};
    return {};
  }

  Courier& courier_;
  const S3Bucket bucket_;
  const std::string prefix_;
  const DownloadOptions options_;
};

}  // namespace

Result<std::unique_ptr<Blobs>> open_blobs(const std::string& where, Courier& courier, const HubSettings& settings,
                                          const DownloadOptions& options) {
  constexpr std::string_view kS3 = "s3://";
  if (!where.starts_with(kS3)) {
    if (where.find("://") != std::string::npos)
      return Error{Code::invalid,
                   fmt::format("object_store: '{}' is neither s3://BUCKET/PREFIX nor a folder", plain(where))};
    return std::make_unique<FolderBlobs>(where);
  }
  const std::string rest = where.substr(kS3.size());
  const std::string bucket = rest.substr(0, rest.find('/'));
  std::string prefix = rest.size() > bucket.size() ? rest.substr(bucket.size() + 1) : "";
  if (!prefix.empty() && !prefix.ends_with('/')) prefix += '/';
  // A reference has the same rules for its bucket and key.
  if (!parse_reference(fmt::format("s3://{}/{}x", bucket, prefix)))
    return Error{Code::invalid, fmt::format("object_store: '{}' names no bucket: s3://BUCKET/PREFIX", plain(where))};
  return std::make_unique<S3Blobs>(courier, S3Bucket(settings, bucket), std::move(prefix), options);
}

}  // namespace ashlar::store
