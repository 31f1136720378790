#include "gateway/section.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/duration.h"
#include "base/nearest.h"
#include "net/http_text.h"

namespace ashlar::gateway {
namespace {

constexpr std::uintmax_t kMaxFile = 4 << 20;
constexpr std::size_t kMaxText = 4096, kMaxName = 256;

bool is_text(const YAML::Node& node) {
  return node.IsScalar() && !node.Scalar().empty() && node.Scalar().size() <= kMaxText;
}

}  // namespace

void Section::fail(const YAML::Node& at, std::string_view why) {
  faults_ += fmt::format("{}{}:{}: {}", faults_.empty() ? "" : "\n", path_, at.Mark().line + 1, why);
}

void Section::each(const YAML::Node& node, const Readers& readers, std::string_view of) {
  if (!node.IsMap()) return fail(node, fmt::format("{} should be `name: value` pairs", of));
  std::set<std::string> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) {
      fail(entry.first, "a key should be a word");
      continue;
    }
    const std::string key = entry.first.Scalar();
    const auto reader = readers.find(key);
    if (!seen.insert(key).second) {
      fail(entry.first, fmt::format("'{}' stands twice", key));
    } else if (reader != readers.end()) {
      reader->second(entry.second);
    } else {
      std::vector<std::string> known;
      for (const auto& [name, unused] : readers) known.push_back(name);
      fail(entry.first, fmt::format("{} has no '{}'{}", of, key, did_you_mean(key, known)));
    }
  }
}

void Section::items(const YAML::Node& node, std::string_view name, std::size_t most, const Read& read) {
  if (node.IsNull()) return;
  if (!node.IsSequence()) return fail(node, fmt::format("'{}' should be a list", name));
  if (node.size() > most) return fail(node, fmt::format("'{}' has more than {} items", name, most));
  for (const auto& item : node) read(item);
}

Section::Read Section::text(std::string name, std::string& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    if (!is_text(node)) return fail(node, fmt::format("'{}' should be a text", name));
    out = node.Scalar();
  };
}

Section::Read Section::texts(std::string name, std::vector<std::string>& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    const auto one = [&](const YAML::Node& item) {
      if (!is_text(item)) return fail(item, fmt::format("'{}' should be texts", name));
      out.push_back(item.Scalar());
    };
    if (node.IsScalar()) return one(node);
    items(node, name, 1000, one);
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
    if (!parsed || parsed->count() < 0)
      return fail(node, fmt::format("'{}' should be a time, as 5s, 250ms or 1m", name));
    out = *parsed;
  };
}

Section::Read Section::whole(std::string name, int& out, int low, int high) {
  return [this, name = std::move(name), &out, low, high](const YAML::Node& node) {
    int value = 0;
    if (!node.IsScalar() || !YAML::convert<int>::decode(node, value) || value < low || value > high)
      return fail(node, fmt::format("'{}' should be a whole number from {} to {}", name, low, high));
    out = value;
  };
}

Section::Read Section::whole(std::string name, std::optional<std::int64_t>& out, std::int64_t low) {
  return [this, name = std::move(name), &out, low](const YAML::Node& node) {
    std::int64_t value = 0;
    if (!node.IsScalar() || !YAML::convert<std::int64_t>::decode(node, value) || value < low)
      return fail(node, fmt::format("'{}' should be a whole number from {}", name, low));
    out = value;
  };
}

Section::Read Section::word(std::string name, std::vector<std::string> words, std::function<void(int)> then) {
  return [this, name = std::move(name), words = std::move(words), then = std::move(then)](const YAML::Node& node) {
    const auto found = node.IsScalar() ? std::ranges::find(words, node.Scalar()) : words.end();
    if (found == words.end()) return fail(node, fmt::format("'{}' should be one of {}", name, fmt::join(words, ", ")));
    then(static_cast<int>(found - words.begin()));
  };
}

Section::Read Section::number(std::string name, double& out, double low, double high) {
  return [this, name = std::move(name), &out, low, high](const YAML::Node& node) {
    double value = 0;
    if (!node.IsScalar() || !YAML::convert<double>::decode(node, value) || !(value >= low && value <= high))
      return fail(node, fmt::format("'{}' should be a number from {} to {}", name, low, high));
    out = value;
  };
}

Section::Read Section::bytes(std::string name, Bytes& out, std::uint64_t low) {
  return [this, name = std::move(name), &out, low](const YAML::Node& node) {
    const auto parsed = node.IsScalar() ? parse_bytes(node.Scalar()) : Error{Code::invalid, ""};
    if (!parsed || parsed->count < low)
      return fail(node, fmt::format("'{}' should be a size of at least {} bytes, as 64MiB", name, low));
    out = *parsed;
  };
}

Section::Read Section::flag(std::string name, bool& out) {
  return [this, name = std::move(name), &out](const YAML::Node& node) {
    if (!node.IsScalar() || !YAML::convert<bool>::decode(node, out))
      fail(node, fmt::format("'{}' should be true or false", name));
  };
}

bool is_config_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName &&
         std::ranges::all_of(text, [](unsigned char c) { return c > 0x20 && c != 0x7f && c != '"'; });
}

Result<std::string> read_config_text(const std::string& path) {
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  if (failed) return Error{Code::not_found, fmt::format("{}: no such configuration file", path)};
  if (size > kMaxFile) return Error{Code::too_large, fmt::format("{}: larger than 4 MiB", path)};
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

Status read_whole(const std::string& text, const std::string& path,
                  const std::function<void(Section&, const YAML::Node&)>& read) {
  Section section(path);
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return {};
    read(section, root);
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("{}:{}: {}", path, e.mark.line + 1, e.msg)};
  }
  if (!section.faults().empty()) return Error{Code::invalid, section.faults()};
  return {};
}

Status read_section(const std::string& text, const std::string& path, const std::string& name,
                    const std::function<void(Section&, const YAML::Node&)>& read) {
  bool map = true;
  TRY(read_whole(text, path, [&](Section& section, const YAML::Node& root) {
    map = root.IsMap();
    if (const YAML::Node member = map ? root[name] : YAML::Node(YAML::NodeType::Undefined); member.IsDefined())
      read(section, member);
  }));
  if (!map) return Error{Code::invalid, fmt::format("{}: expected `name: value` lines", path)};
  return {};
}

}  // namespace ashlar::gateway
