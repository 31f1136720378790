// For the tests of this room: a server that plays a hub, broken transfers and all,
// and a folder that goes with the test.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "net/http_text.h"
#include "net/loopback_for_test.h"
#include "store/digest.h"
#include "store/model_store.h"
#include "store/wire.h"

namespace ashlar::store {

struct FakeRequest {
  std::string method, target;  // with its query
  std::map<std::string, std::string> headers;
  std::string body;
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct FakeAnswer {
  int status = 200;
  std::map<std::string, std::string> headers;
  std::string body;
  std::size_t cut = SIZE_MAX;  // the connection ends after so many bytes of the body
  long long announced = -1;    // another content-length than the body's
};

// Answers on a free port of 127.0.0.1, each connection on a thread of its own.
class FakeServer {
 public:
  using Handler = std::function<FakeAnswer(const FakeRequest&)>;
  explicit FakeServer(Handler handler) : handler_(std::move(handler)) {}

  std::string url(const std::string& target = "") const {
    return fmt::format("http://127.0.0.1:{}{}", loopback_.port(), target);
  }
  std::vector<FakeRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  std::size_t count(const std::string& part) const {
    std::size_t n = 0;
    for (const FakeRequest& request : requests()) n += request.target.find(part) != std::string::npos;
    return n;
  }

 private:
  void talk(int fd) {
    std::string ahead;
    const auto more = [&] {
      char bytes[64 << 10];
      const auto n = ::recv(fd, bytes, sizeof bytes, 0);
      if (n > 0) ahead.append(bytes, static_cast<std::size_t>(n));
      return n > 0;
    };
    while (true) {
      std::size_t end = 0;
      while ((end = ahead.find("\r\n\r\n")) == std::string::npos)
        if (!more()) return;
      FakeRequest request = parse(ahead.substr(0, end));
      ahead.erase(0, end + 4);
      const std::size_t length = std::strtoull(request.header("content-length").c_str(), nullptr, 10);
      while (ahead.size() < length)
        if (!more()) return;
      request.body = ahead.substr(0, length);
      ahead.erase(0, length);
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      if (!send(fd, request, handler_(request))) return;
    }
  }
  static FakeRequest parse(const std::string& head) {
    FakeRequest request;
    std::istringstream lines(head);
    std::string line;
    std::getline(lines, line);
    std::istringstream(line) >> request.method >> request.target;
    while (std::getline(lines, line)) {
      if (line.ends_with('\r')) line.pop_back();
      const auto colon = line.find(": ");
      if (colon != std::string::npos) request.headers[net::lower(line.substr(0, colon))] = line.substr(colon + 2);
    }
    return request;
  }
  static bool send(int fd, const FakeRequest& request, const FakeAnswer& answer) {
    std::string out = fmt::format("HTTP/1.1 {} x\r\n", answer.status);
    for (const auto& [name, value] : answer.headers) out += name + ": " + value + "\r\n";
    out += fmt::format("content-length: {}\r\n\r\n",
                       answer.announced >= 0 ? answer.announced : static_cast<long long>(answer.body.size()));
    if (request.method != "HEAD") out += answer.body.substr(0, answer.cut);
    for (std::size_t at = 0; at < out.size();) {
      const auto n = ::send(fd, out.data() + at, out.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return false;
      at += static_cast<std::size_t>(n);
    }
    return answer.cut == SIZE_MAX;
  }

  const Handler handler_;
  mutable std::mutex mutex_;
  std::vector<FakeRequest> requests_;
  net::Loopback loopback_{[this](int fd) { talk(fd); }};  // last: it ends before what it uses
};

// As a well-behaved server gives a file: whole, or the part that was asked for.
inline FakeAnswer give_file(const FakeRequest& request, const std::string& body, const std::string& etag = "\"v1\"") {
  FakeAnswer answer{.headers = {{"accept-ranges", "bytes"}}};
  if (!etag.empty()) answer.headers["etag"] = etag;
  const std::string range = request.header("range");
  const std::string condition = request.header("if-range");
  if (range.empty() || (!condition.empty() && condition != etag)) {
    answer.body = body;
    return answer;
  }
  std::size_t first = 0, last = 0;
  EXPECT_EQ(std::sscanf(range.c_str(), "bytes=%zu-%zu", &first, &last), 2) << range;
  if (first >= body.size())
    return {.status = 416, .headers = {{"content-range", fmt::format("bytes */{}", body.size())}}};
  last = std::min(last, body.size() - 1);
  answer.status = 206;
  answer.body = body.substr(first, last - first + 1);
  answer.headers["content-range"] = fmt::format("bytes {}-{}/{}", first, last, body.size());
  return answer;
}

// Bytes that begin as a GGUF file does.
inline std::string gguf_bytes(std::size_t size, unsigned seed = 1) {
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
  return out.replace(0, 4, "GGUF");
}

inline std::string hex_of(const std::string& bytes) { return to_hex(sha256(bytes)); }

inline std::string git_hex_of(const std::string& bytes) {
  Hasher hasher(Hasher::Kind::sha1);
  hasher.add(fmt::format("blob {}", bytes.size()) + '\0' + bytes);
  return to_hex(hasher.finish());
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ashlar-store-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code failed;
    std::filesystem::remove_all(path_, failed);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Waits that a test can bear.
inline CourierOptions quick() {
  using std::chrono::milliseconds;
  return {.retries = 4,
          .backoff = milliseconds(1),
          .longest_backoff = milliseconds(5),
          .longest_wait = milliseconds(5000),
          .connect_timeout = milliseconds(5000),
          .silence = milliseconds(5000)};
}

inline Status unwatched(const PullProgress&) { return {}; }

}  // namespace ashlar::store
