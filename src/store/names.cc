#include "store/names.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "net/http_text.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kMostBytes = 1000, kMostPartBytes = 200, kMostParts = 16;

constexpr std::string_view kPickles[] = {".bin",      ".pt",  ".pth",  ".ckpt", ".pkl",  ".pickle",    ".dill",
                                         ".joblib",   ".npy", ".npz",  ".h5",   ".hdf5", ".keras",     ".msgpack",
                                         ".pdparams", ".mar", ".nemo", ".t7",   ".pb",   ".pdiparams", ".pyc"};
constexpr std::string_view kArchives[] = {".zip", ".tar", ".gz",  ".tgz", ".bz2", ".xz",
                                          ".zst", ".7z",  ".rar", ".jar", ".whl"};

bool ends_with_any(std::string_view name, auto& endings) {
  const std::string lower = net::lower(name);
  return std::ranges::any_of(endings, [&](std::string_view ending) { return lower.ends_with(ending); });
}

const char* wrong_part(std::string_view part) {
  if (part.empty()) return "it has an empty part";
  if (part == "." || part == "..") return "it leaves its folder";
  if (part.size() > kMostPartBytes) return "a part of it is too long";
  return nullptr;
}

const char* wrong_name(std::string_view name) {
  if (name.empty()) return "it is empty";
  if (name.size() > kMostBytes) return "it is too long";
  if (name.front() == '/') return "it is absolute";
  if (std::ranges::any_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; }))
    return "it has a control character or a backslash";
  if (!utf8::is_valid(name)) return "it is not UTF-8";
  for (std::size_t parts = 1;; ++parts) {
    const std::size_t slash = name.find('/');
    if (const char* wrong = wrong_part(name.substr(0, slash))) return wrong;
    if (slash == name.npos) return nullptr;
    if (parts == kMostParts) return "it has too many parts";
    name.remove_prefix(slash + 1);
  }
}

}  // namespace

Status check_file_name(std::string_view name) {
  if (const char* wrong = wrong_name(name))
    return Error{Code::corrupt, fmt::format("the file name '{}' is refused: {}", plain(name), wrong)};
  return {};
}

bool is_refused(std::string_view name) { return ends_with_any(name, kPickles) || ends_with_any(name, kArchives); }

Status check_kind(std::string_view name) {
  if (ends_with_any(name, kArchives))
    return Error{
        Code::unsupported,
        fmt::format("{}: archives are never fetched or opened; models are GGUF or safetensors files", plain(name))};
  if (ends_with_any(name, kPickles))
    return Error{
        Code::unsupported,
        fmt::format(
            "{}: files of this kind (pickles and their like) can run code when they are opened, and are never fetched; "
            "models are GGUF or safetensors files",
            plain(name))};
  return {};
}

Status check_first_bytes(std::string_view name, std::string_view bytes) {
  using namespace std::string_view_literals;
  if (bytes.starts_with("PK\x03\x04"sv) || bytes.starts_with("PK\x05\x06"sv))
    return Error{
        Code::unsupported,
        fmt::format("{}: is a zip archive whatever its name says (as pickled weights are); such files are never opened",
                    plain(name))};
  const std::string lower = net::lower(name);
  const bool safetensors = lower.ends_with(".safetensors");
  if (!safetensors && bytes.size() >= 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5)
    return Error{Code::unsupported,
                 fmt::format("{}: is a pickle whatever its name says; such files are never opened", plain(name))};
  if (lower.ends_with(".gguf") && !bytes.starts_with("GGUF"))
    return Error{Code::corrupt, fmt::format("{}: what came is no GGUF file", plain(name))};
  // Its header's length, then the header, which is JSON.
  if (safetensors && (bytes.size() < 9 || bytes[8] != '{'))
    return Error{Code::corrupt, fmt::format("{}: what came is no safetensors file", plain(name))};
  return {};
}

std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 200)) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(byte < 0x20 || byte == 0x7f ? ' ' : c);
  }
  if (text.size() > 200) out += "...";
  return utf8::sanitize(out);
}

}  // namespace ashlar::store
