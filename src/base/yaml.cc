#include "base/yaml.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <sstream>
#include <system_error>
#include <unordered_set>

#include "base/descriptor.h"
#include "base/utf8.h"

namespace ashlar {
namespace {

constexpr int kMostDeep = 64;
constexpr std::size_t kMostFaults = 100, kMostNodes = 500'000, kMostShown = 40;

std::size_t lines_before(std::string_view text) { return static_cast<std::size_t>(std::ranges::count(text, '\n')); }

// The first character that no text of settings holds: the line, and a sentence. {0, ""}: none.
std::pair<std::size_t, std::string> strange_character(std::string_view text) {
  for (std::string_view rest = text; !rest.empty();) {
    const auto line = [&] { return lines_before(text.substr(0, text.size() - rest.size())) + 1; };
    const unsigned char c = static_cast<unsigned char>(rest.front());
    if (c >= 0x20 && c < 0x7f) {
      rest.remove_prefix(1);
      continue;
    }
    const utf8::Step step = utf8::decode(rest);
    if (!step.valid) return {line(), fmt::format("the byte 0x{:02x} is no UTF-8: save the file as UTF-8", c)};
    if ((step.code < 0x20 && c != '\n' && c != '\r' && c != '\t') || step.code == 0x7f)
      return {line(), fmt::format("a control character, U+{:04X}, stands in the file: take it out", unsigned{c})};
    rest.remove_prefix(step.bytes);
  }
  return {0, ""};
}

// Whether a line up to `last` (from 0) is indented by tabs, which YAML does not take.
bool is_indented_by_tab(std::string_view text, std::size_t last) {
  for (std::size_t line = 0; line <= last; ++line) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto first = text.substr(0, end).find_first_not_of(" \t");
    if (line + 1 >= last && first != text.npos && text.substr(0, first).find('\t') != text.npos) return true;
    if (end == text.size()) return false;
    text.remove_prefix(end + 1);
  }
  return false;
}

bool is_known_tag(const std::string& tag) {
  constexpr std::string_view kOwn = "tag:yaml.org,2002:";
  return tag.empty() || tag == "?" || tag == "!" ||
         (tag.starts_with(kOwn) && !tag.ends_with(":binary"));  // !!str, !!int, !!map
}

struct TooMuch {
  std::size_t line;
  std::string why;
};

// Reads along before anything of the text is kept, and throws TooMuch at once.
class BoundsCheck final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& at) override {
    if (++documents_ > 1) fail(at, "a second document begins here (after `---` or `...`): a file holds one");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& at, YAML::anchor_t) override { node(at); }
  void OnAlias(const YAML::Mark& at, YAML::anchor_t) override { node(at); }
  void OnScalar(const YAML::Mark& at, const std::string&, YAML::anchor_t, const std::string&) override { node(at); }
  void OnSequenceStart(const YAML::Mark& at, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    deeper(at);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& at, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    deeper(at);
  }
  void OnMapEnd() override { --depth_; }

 private:
  [[noreturn]] static void fail(const YAML::Mark& at, std::string why) {
    throw TooMuch{static_cast<std::size_t>(at.line + 1), std::move(why)};
  }
  void node(const YAML::Mark& at) {
    if (++nodes_ > kMostNodes) fail(at, fmt::format("the file holds more than {} values", kMostNodes));
  }
  void deeper(const YAML::Mark& at) {
    node(at);
    if (++depth_ > kMostDeep) fail(at, fmt::format("values are nested more than {} deep", kMostDeep));
  }

  std::size_t documents_ = 0, nodes_ = 0;
  int depth_ = 0;
};

// Walks the whole tree, through aliases too.
class FormCheck {
 public:
  explicit FormCheck(FileFaults& faults) : faults_(faults) {}

  Status walk(const YAML::Node& node, int depth = 0) {
    if (depth > kMostDeep) return Error{Code::invalid, fmt::format("values are nested more than {} deep", kMostDeep)};
    if (++nodes_ > kMostNodes)
      return Error{Code::too_large, fmt::format("it holds more than {} values, aliases counted", kMostNodes)};
    if (!is_known_tag(node.Tag()))
      faults_.add(node, fmt::format("the tag {} is not read: write the value itself", shown(node.Tag())));
    if (node.IsScalar() && !is_yaml_text(node.Scalar()))
      faults_.add(node, "an escape in this text stands for a control character: take it out");
    if (node.IsSequence())
      for (const auto& each : node) TRY(walk(each, depth + 1));
    if (!node.IsMap()) return {};
    std::unordered_set<std::string_view> seen;
    for (const auto& each : node) {
      const YAML::Node& name = each.first;
      if (!name.IsScalar()) {
        faults_.add(name, "a key should be a word");
      } else if (name.Scalar() == "<<" && name.Tag() != "!") {
        faults_.add(name, "merge keys (<<) are not read: write the members themselves, or an alias for a whole value");
      } else if (!seen.insert(name.Scalar()).second) {
        faults_.add(name, fmt::format("'{}' stands twice", shown(name.Scalar())));
      }
      TRY(walk(each.second, depth + 1));
    }
    return {};
  }

 private:
  static std::string shown(const std::string& text) { return text.substr(0, kMostShown); }

  FileFaults& faults_;
  std::size_t nodes_ = 0;
};

std::string why_not(const std::string& path) {
  return fmt::format("{}: cannot be read: {}", path,
                     errno == ENOENT ? "there is no such file" : std::generic_category().message(errno));
}

}  // namespace

void FileFaults::add(std::size_t line, std::string_view why) {
  if (found_.size() > kMostFaults) return;
  if (found_.size() == kMostFaults) {
    found_.emplace(std::string::npos, fmt::format("and more: these are the first {}", kMostFaults));
    return;
  }
  std::string plain(why);
  // Texts with escapes may hold what moves a terminal's cursor.
  for (char& c : plain)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  found_.emplace(line, std::move(plain));
}

std::string FileFaults::text() const {
  std::string out;
  for (const auto& [line, why] : found_) {
    out += (out.empty() ? "" : "\n") + path_;
    if (line != 0 && line != std::string::npos) out += fmt::format(":{}", line);
    out += ": " + why;
  }
  return out;
}

void FileFaults::add(const YAML::Node& at, std::string_view why) { add(line_of(at), why); }

Status FileFaults::status() const {
  if (found_.empty()) return {};
  return Error{Code::invalid, text()};
}

std::size_t line_of(const YAML::Node& node) {
  return node.IsDefined() ? static_cast<std::size_t>(node.Mark().line + 1) : 0;
}

std::string shape_of(const YAML::Node& node) {
  if (!node.IsDefined() || node.IsNull()) return "nothing";
  if (node.IsSequence()) return node.size() == 0 ? "an empty list" : "a list";
  if (node.IsMap()) return "a map";
  const std::string& text = node.Scalar();
  if (text.empty()) return "an empty text";
  if (text.size() > kMostShown) return "a long text";
  return fmt::format("'{}'", text);
}

Result<YAML::Node> load_yaml(const std::string& text, const std::string& path, FileFaults& faults) {
  const auto wrong = [&](std::size_t line, std::string_view why) {
    FileFaults one(path);
    one.add(line, why);
    return Error{Code::invalid, one.text()};
  };
  if (const auto [line, why] = strange_character(text); line != 0) return wrong(line, why);
  try {
    BoundsCheck bounds;
    std::istringstream in(text);
    for (YAML::Parser parser(in); parser.HandleNextDocument(bounds);) {
    }
    YAML::Node root = YAML::Load(text);
    if (const Status sound = FormCheck(faults).walk(root); !sound) return wrong(line_of(root), sound.error().message);
    return root;
  } catch (const TooMuch& e) {
    return wrong(e.line, e.why);
  } catch (const YAML::Exception& e) {
    const std::size_t line = e.mark.is_null() ? 0 : static_cast<std::size_t>(e.mark.line);
    const char* hint = is_indented_by_tab(text, line) ? " (a tab stands before it: indent by blanks)" : "";
    return wrong(e.mark.is_null() ? 0 : line + 1, fmt::format("this is no YAML: {}{}", e.msg, hint));
  }
}

bool is_yaml_text(std::string_view text) { return strange_character(text).second.empty(); }

Result<std::string> read_text_file(const std::string& path, std::string_view what, Bytes most) {
  // A pipe without a writer is not waited for.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat about{};
  if (file.get() < 0 || ::fstat(file.get(), &about) != 0)
    return Error{errno == EACCES ? Code::forbidden : Code::not_found, why_not(path)};
  if (!S_ISREG(about.st_mode))
    return Error{Code::not_found,
                 fmt::format("{}: cannot be read: {}, not a {}", path,
                             S_ISDIR(about.st_mode) ? "it is a directory" : "it is no regular file", what)};
  std::string text;
  char part[16 << 10];
  while (true) {
    const ssize_t got = ::read(file.get(), part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error{Code::io, why_not(path)};
    if (got == 0) return text;
    text.append(part, static_cast<std::size_t>(got));
    if (text.size() > most.count)
      return Error{Code::too_large, fmt::format("{}: larger than {}, too large for a {}", path, to_string(most), what)};
  }
}

}  // namespace ashlar
