#include "gateway/litellm/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <tuple>

#include "base/contains.h"
#include "base/json.h"
#include "base/yaml.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostNotes = 5'000, kMostMembers = 2'000;
constexpr int kMostMerges = 8;  // of maps into maps: `<<: *defaults`

// What our own file can say.
bool is_line(std::string_view text) {
  return text.size() <= 4096 && text.find_first_of("\r\n") == text.npos && is_yaml_text(text);
}

}  // namespace

std::string in_quotes(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

std::string decimal(double value) {
  std::string out = fmt::format("{:.9f}", value);
  out.erase(out.find_last_not_of('0') + 1);
  if (out.ends_with('.')) out.pop_back();
  return out;
}

std::optional<std::string> litellm_variable(const std::string& value) {
  constexpr std::string_view kPrefix = "os.environ/";
  if (!value.starts_with(kPrefix)) return std::nullopt;
  return value.substr(kPrefix.size());
}

bool is_variable_name(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

void LitellmReader::note(const YAML::Node& at, std::string key, std::string why) {
  note_line(at.Mark().line + 1, std::move(key), std::move(why));
}

void LitellmReader::note_line(int line, std::string key, std::string why) {
  if (notes_.size() >= kMostNotes) throw TooMuch();
  if (key.size() > 200) key.resize(200);
  notes_.push_back({line, std::move(key), std::move(why)});
}

// Of a map, those that it merges included; its own come first.
LitellmReader::Members LitellmReader::members(const YAML::Node& node, const std::string& what, int depth) {
  Members out;
  if (!node.IsDefined() || node.IsNull()) return out;
  if (!node.IsMap()) {
    note(node, what, "should be a map");
    return out;
  }
  std::vector<YAML::Node> merged;
  for (const auto& entry : node) {
    if (++members_read_ > 200 * kMostMembers || out.size() > kMostMembers) throw TooMuch();
    if (!entry.first.IsScalar()) {
      note(entry.first, what, "has a key that is no word");
    } else if (entry.first.Scalar() == "<<") {
      if (entry.second.IsSequence())
        for (const auto& each : entry.second) merged.push_back(each);
      else
        merged.push_back(entry.second);
    } else if (const auto before = std::ranges::find(out, entry.first.Scalar(), &Members::value_type::first);
               before != out.end()) {
      note(entry.first, what, fmt::format("'{}' stands twice: the last is taken", before->first.substr(0, 100)));
      before->second.reset(entry.second);
    } else {
      out.emplace_back(entry.first.Scalar(), entry.second);
    }
  }
  if (depth >= kMostMerges) return out;
  for (const YAML::Node& each : merged)
    for (auto& member : members(each, what, depth + 1))
      if (!contains(out, member.first, &Members::value_type::first)) out.push_back(std::move(member));
  return out;
}

// nullopt, and a note: not that.
std::optional<std::string> LitellmReader::text(const YAML::Node& node, const std::string& key) {
  if (node.IsScalar() && is_line(node.Scalar())) return node.Scalar();
  note(node, key, "should be a text of one line, without control characters");
  return std::nullopt;
}

std::optional<std::string> LitellmReader::resolved(const YAML::Node& at, const std::string& key, std::string value) {
  const auto name = litellm_variable(value);
  if (!name) return value;
  const char* const said = is_variable_name(*name) ? std::getenv(name->c_str()) : nullptr;
  if (said == nullptr || *said == '\0') {
    note(at, key,
         fmt::format("left out: set {0} and import again, or write here what it would say", name->substr(0, 100)));
    return std::nullopt;
  }
  if (!is_line(said)) {
    note(at, key, fmt::format("left out: {} says more than a line, or holds control characters", *name));
    return std::nullopt;
  }
  note(at, key, fmt::format("what {} says now was written", *name));
  return said;
}

std::optional<double> LitellmReader::number(const YAML::Node& node, const std::string& key, double low, double high) {
  double value = 0;
  YAML::Node said = node;
  if (node.IsScalar()) {
    const auto text = resolved(node, key, node.Scalar());
    if (!text) return std::nullopt;
    if (*text != node.Scalar()) said.reset(YAML::Node(*text));
  }
  if (said.IsScalar() && YAML::convert<double>::decode(said, value) && value >= low && value <= high) return value;
  note(node, key, fmt::format("should be a number from {} to {}", low, high));
  return std::nullopt;
}

std::optional<bool> LitellmReader::flag(const YAML::Node& node, const std::string& key) {
  bool value = false;
  if (node.IsScalar() && YAML::convert<bool>::decode(node, value)) return value;
  note(node, key, "should be true or false");
  return std::nullopt;
}

std::vector<std::string> LitellmReader::words(const YAML::Node& node, const std::string& key) {
  std::vector<std::string> out;
  if (node.IsScalar())
    out.push_back(node.Scalar());
  else if (!node.IsSequence() || node.size() > kMostModels)
    note(node, key, "should be a list of names");
  else
    for (const auto& each : node) {
      if (++members_read_ > 200 * kMostMembers) throw TooMuch();
      if (each.IsScalar())
        out.push_back(each.Scalar());
      else
        note(each, key, "should be a name");
    }
  return out;
}

std::vector<LitellmImport::Note> LitellmReader::take_notes() {
  std::ranges::sort(notes_, {},
                    [](const LitellmImport::Note& each) { return std::tie(each.line, each.key, each.why); });
  return std::move(notes_);
}

}  // namespace ashlar::gateway
