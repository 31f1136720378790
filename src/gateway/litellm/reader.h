// How a LiteLLM proxy's configuration is read: node by node, with a note for what is not as it should be.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/litellm/import_litellm.h"

namespace ashlar::gateway {

// Thrown where aliases of aliases would be followed for ever.
struct TooMuch {};

class LitellmReader {
 public:
  using Members = std::vector<std::pair<std::string, YAML::Node>>;
  using Texts = std::map<std::string, std::string>;
  static constexpr std::size_t kMostModels = 1'000;

  void note(const YAML::Node& at, std::string key, std::string why);
  void note_line(int line, std::string key, std::string why);
  // Of a map, those that it merges included; its own come first.
  Members members(const YAML::Node& node, const std::string& what, int depth = 0);
  // What the environment says now, where `value` refers to it, with a note; nullopt, and a note: nothing.
  std::optional<std::string> resolved(const YAML::Node& at, const std::string& key, std::string value);
  // nullopt, and a note: not that.
  std::optional<std::string> text(const YAML::Node& node, const std::string& key);
  std::optional<double> number(const YAML::Node& node, const std::string& key, double low, double high);
  std::optional<bool> flag(const YAML::Node& node, const std::string& key);
  std::vector<std::string> words(const YAML::Node& node, const std::string& key);
  std::vector<LitellmImport::Note> take_notes();  // by their lines

 private:
  std::vector<LitellmImport::Note> notes_;
  std::size_t members_read_ = 0;
};

// A text as it may stand in YAML, whatever is in it: JSON's form.
std::string in_quotes(std::string_view text);
// 0.15, not 1.5e-01; at most nine digits behind the point.
std::string decimal(double value);
// "os.environ/X" of a text that may be a secret.
std::optional<std::string> litellm_variable(const std::string& value);
bool is_variable_name(std::string_view name);

}  // namespace ashlar::gateway
