// A section of the configuration file, read member by member. What is wrong with it
// is gathered, each fault with its line, so that a file is mended in one go.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/yaml.h"

namespace ashlar::gateway {

class Section {
 public:
  using Read = std::function<void(const YAML::Node&)>;
  using Readers = std::map<std::string, Read, std::less<>>;

  explicit Section(FileFaults& faults) : faults_(faults) {}

  void fail(const YAML::Node& at, std::string_view why);
  // "'name' should be EXPECTED, not ..." what it is.
  void wrong(const YAML::Node& at, std::string_view name, std::string_view expected);
  std::size_t faults() const { return faults_.count(); }  // so far

  // Every member of the map `node` by its own reader; one that has none is a fault: "an upstream has no 'modles'; did
  // you mean 'models'?" What stands twice is one already.
  void each(const YAML::Node& node, const Readers& readers, std::string_view of);
  // The pairs of a map whose names are anybody's, of which there are at most `most`.
  void pairs(const YAML::Node& node, std::string_view name, std::size_t most,
             const std::function<void(const std::string&, const YAML::Node&)>& read);
  // The items of the list `name`, of which there are at most `most`.
  void items(const YAML::Node& node, std::string_view name, std::size_t most, const Read& read);

  // Readers of one value each, into `out`, which must outlive them.
  Read text(std::string name, std::string& out);                // one line
  Read paragraph(std::string name, std::string& out);           // or several
  Read texts(std::string name, std::vector<std::string>& out);  // a list, or one alone
  // The same, and not none, in place of what `out` holds.
  Read some_texts(std::string name, std::vector<std::string>& out);
  Read classes(std::string name, std::vector<std::string>& out);  // of data: texts, in small letters
  Read duration(std::string name, std::chrono::milliseconds& out);
  Read whole(std::string name, int& out, int low, int high);
  Read whole(std::string name, std::optional<std::int64_t>& out, std::int64_t low);
  // One of these.
  Read word(std::string name, std::vector<std::string> words, std::function<void(int place)> then);
  Read number(std::string name, double& out, double low, double high);
  Read bytes(std::string name, Bytes& out, std::uint64_t low);
  Read flag(std::string name, bool& out);

 private:
  FileFaults& faults_;
  // The line of the name whose value is left out, to which the parser gives that of what comes next.
  std::size_t nothing_ = 0;
};

// A word without blanks, control characters and quotation marks, at most 256 bytes: names of upstreams, models, routes.
bool is_config_name(std::string_view text);

// The text of a configuration file. not_found, forbidden; too_large: beyond 4 MiB; invalid: without any text, as a file
// is that is being written, or was when the disk was full.
Result<std::string> read_config_text(const std::string& path);

// Reads the member `name` of the file's `text`, if it is there. invalid: all faults, a line each.
Status read_section(const std::string& text, const std::string& path, const std::string& name,
                    const std::function<void(Section&, const YAML::Node&)>& read);

// The same of all of it; a text that says nothing is fine, and not read.
Status read_whole(const std::string& text, const std::string& path,
                  const std::function<void(Section&, const YAML::Node&)>& read);

}  // namespace ashlar::gateway
