// A file of settings that people write by hand: YAML, of which JSON is a part.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/result.h"

namespace YAML {
class Node;
}

namespace ashlar {

// What is wrong with a file: sentences by their lines, none twice, of which at most a hundred are kept.
class FileFaults {
 public:
  explicit FileFaults(std::string path) : path_(std::move(path)) {}

  // `line` counts from 1; 0: of the file as a whole.
  void add(std::size_t line, std::string_view why);
  void add(const YAML::Node& at, std::string_view why);
  std::size_t count() const { return found_.size(); }
  std::string text() const;  // "ashlar.yaml:7: ...", a line for each fault; "": it is fine
  Status status() const;     // invalid: text()

 private:
  const std::string path_;
  std::set<std::pair<std::size_t, std::string>> found_;
};

// The line of `node`, from 1; 0: it stands nowhere.
std::size_t line_of(const YAML::Node& node);

// What a value is, for a sentence that says what it should be: "a list", "'many'", "nothing".
std::string shape_of(const YAML::Node& node);

// `text` as a tree, null where it holds nothing. What can be read, but would be taken otherwise than it was meant, goes
// to `faults`: names that stand twice in a map or are no words, merge keys, tags. invalid: it is no YAML, no UTF-8,
// holds control characters, several documents, values that are nested too deeply, or more of them than a file needs,
// each alias counted as what it stands for.
Result<YAML::Node> load_yaml(const std::string& text, const std::string& path, FileFaults& faults);

// Whether load_yaml takes it, written in quotes: UTF-8 without control characters but line breaks and tabs.
bool is_yaml_text(std::string_view text);

// The text of a file that people write. not_found, forbidden: it is not there, may not be read, or is no file;
// too_large. `what`: "configuration file".
Result<std::string> read_text_file(const std::string& path, std::string_view what, Bytes most);

}  // namespace ashlar
