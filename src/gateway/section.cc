#include "gateway/section.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>

#include "base/duration.h"
#include "base/nearest.h"
#include "net/http_text.h"

namespace ashlar::gateway {
namespace {

constexpr Bytes kMaxFile = 4_MiB;
constexpr std::size_t kMaxText = 4096, kMaxName = 256;

// Texts of several lines are for people and models; others end in headers and logs.
bool is_text(const YAML::Node& node, bool one_line) {
  return node.IsScalar() && !node.Scalar().empty() && node.Scalar().size() <= kMaxText &&
         !(one_line && node.Scalar().find_first_of("\r\n") != std::string::npos);
}

template <class T>
bool is_number(const YAML::Node& node, T& out) {
  if (!node.IsScalar()) return false;
  const std::string& text = node.Scalar();
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), out);
  return failed == std::errc{} && end == text.data() + text.size();
}

}  // namespace

void Section::fail(const YAML::Node& at, std::string_view why) {
  faults_.add(at.IsDefined() && at.IsNull() && nothing_ != 0 ? nothing_ : line_of(at), why);
}

void Section::wrong(const YAML::Node& at, std::string_view name, std::string_view expected) {
  fail(at, fmt::format("'{}' should be {}, not {}", name, expected, shape_of(at)));
}

void Section::each(const YAML::Node& node, const Readers& readers, std::string_view of) {
  if (!node.IsMap()) return fail(node, fmt::format("{} should be `name: value` pairs, not {}", of, shape_of(node)));
  for (const auto& entry : node) {
    if (!entry.first.IsScalar() || entry.first.Scalar() == "<<") continue;  // told
    const std::string key = entry.first.Scalar();
    nothing_ = entry.second.IsNull() ? line_of(entry.first) : 0;
    if (const auto reader = readers.find(key); reader != readers.end()) {
      reader->second(entry.second);
      continue;
    }
    std::vector<std::string> known;
    for (const auto& [name, unused] : readers) known.push_back(name);
    std::string hint = did_you_mean(key, known);
    if (hint.empty()) hint = fmt::format(": it has {}", fmt::join(known, ", "));
    fail(entry.first, fmt::format("{} has no '{}'{}", of, key.substr(0, kMaxName), hint));
  }
}

void Section::pairs(const YAML::Node& node, std::string_view name, std::size_t most,
                    const std::function<void(const std::string&, const YAML::Node&)>& read) {
  if (!node.IsMap()) return wrong(node, name, "`name: value` pairs");
  if (node.size() > most) return fail(node, fmt::format("'{}' has more than {} members", name, most));
  for (const auto& entry : node)
    if (entry.first.IsScalar() && entry.first.Scalar() != "<<") read(entry.first.Scalar(), entry.second);
}

void Section::items(const YAML::Node& node, std::string_view name, std::size_t most, const Read& read) {
  if (node.IsNull()) return;
  if (!node.IsSequence()) return wrong(node, name, "a list");
  if (node.size() > most) return fail(node, fmt::format("'{}' has more than {} items", name, most));
  for (const auto& item : node) read(item);
}

Section::Read Section::text(std::string name, std::string& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    if (!is_text(node, true)) return wrong(node, name, "a text of one line");
    out = node.Scalar();
  };
}

Section::Read Section::paragraph(std::string name, std::string& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    if (!is_text(node, false)) return wrong(node, name, "a text");
    out = node.Scalar();
  };
}

Section::Read Section::texts(std::string name, std::vector<std::string>& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    const auto one = [&](const YAML::Node& item) {
      if (!is_text(item, true)) return wrong(item, name, "texts of one line");
      out.push_back(item.Scalar());
    };
    if (node.IsScalar()) return one(node);
    items(node, name, 1000, one);
  };
}

Section::Read Section::some_texts(std::string name, std::vector<std::string>& out) {
  return [this, name, read = texts(name, out), &out](const YAML::Node& node) {
    out.clear();
    if (node.IsNull() || (node.IsSequence() && node.size() == 0)) return wrong(node, name, "a text, or a list of some");
    read(node);
  };
}

Section::Read Section::classes(std::string name, std::vector<std::string>& out) {
  return [read = texts(std::move(name), out), &out](const YAML::Node& value) {
    read(value);
    for (std::string& each : out) each = net::lower(each);
  };
}

Section::Read Section::duration(std::string name, std::chrono::milliseconds& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    const auto parsed = node.IsScalar() ? parse_duration(node.Scalar()) : Error{Code::invalid, ""};
    if (!parsed || parsed->count() < 0) return wrong(node, name, "a time, as 5s, 250ms or 1m");
    out = *parsed;
  };
}

Section::Read Section::whole(std::string name, int& out, int low, int high) {
  return [this, name = std::move(name), &out, low, high](const YAML::Node& node) {
    int value = 0;
    if (!is_number(node, value) || value < low || value > high)
      return wrong(node, name, fmt::format("a whole number from {} to {}", low, high));
    out = value;
  };
}

Section::Read Section::whole(std::string name, std::optional<std::int64_t>& out, std::int64_t low) {
  return [this, name = std::move(name), &out, low](const YAML::Node& node) {
    std::int64_t value = 0;
    if (!is_number(node, value) || value < low) return wrong(node, name, fmt::format("a whole number from {}", low));
    out = value;
  };
}

Section::Read Section::word(std::string name, std::vector<std::string> words, std::function<void(int)> then) {
  return [this, name = std::move(name), words = std::move(words), then = std::move(then)](const YAML::Node& node) {
    const auto found = node.IsScalar() ? std::ranges::find(words, node.Scalar()) : words.end();
    if (found == words.end())
      return fail(node, fmt::format("'{}' should be one of {}, not {}{}", name, fmt::join(words, ", "), shape_of(node),
                                    node.IsScalar() ? did_you_mean(node.Scalar(), words) : ""));
    then(static_cast<int>(found - words.begin()));
  };
}

Section::Read Section::number(std::string name, double& out, double low, double high) {
  return [this, name = std::move(name), &out, low, high](const YAML::Node& node) {
    double value = 0;
    if (!is_number(node, value) || !(value >= low && value <= high))
      return wrong(node, name, fmt::format("a number from {} to {}", low, high));
    out = value;
  };
}

Section::Read Section::bytes(std::string name, Bytes& out, std::uint64_t low) {
  return [this, name = std::move(name), &out, low](const YAML::Node& node) {
    const auto parsed = node.IsScalar() ? parse_bytes(node.Scalar()) : Error{Code::invalid, ""};
    if (!parsed || parsed->count < low)
      return wrong(node, name, fmt::format("a size of at least {} bytes, as 64MiB", low));
    out = *parsed;
  };
}

Section::Read Section::flag(std::string name, bool& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    if (!node.IsScalar() || !YAML::convert<bool>::decode(node, out)) wrong(node, name, "true or false");
  };
}

bool is_config_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName &&
         std::ranges::all_of(text, [](unsigned char c) { return c > 0x20 && c != 0x7f && c != '"'; });
}

Result<std::string> read_config_text(const std::string& path) {
  std::string text = TRY(read_text_file(path, "configuration file", kMaxFile));
  if (text.find_first_not_of(" \t\r\n") != text.npos) return text;
  return Error{Code::invalid, fmt::format("{}: the file is empty; write {{}} where it is to say nothing", path)};
}

Status read_whole(const std::string& text, const std::string& path,
                  const std::function<void(Section&, const YAML::Node&)>& read) {
  FileFaults faults(path);
  Section section(faults);
  const YAML::Node root = TRY(load_yaml(text, path, faults));
  if (!root.IsNull()) read(section, root);
  return faults.status();
}

Status read_section(const std::string& text, const std::string& path, const std::string& name,
                    const std::function<void(Section&, const YAML::Node&)>& read) {
  return read_whole(text, path, [&](Section& section, const YAML::Node& root) {
    if (!root.IsMap()) return section.fail(root, "a configuration file should be `name: value` lines");
    if (const YAML::Node member = root[name]; member.IsDefined()) read(section, member);
  });
}

}  // namespace ashlar::gateway
