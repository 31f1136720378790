// Stop strings in a stream of text: what might begin one is held back until it is
// clear that it does not.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::engine {

// The strings of one request, prepared once and shared by its choices
// (Knuth-Morris-Pratt failure tables: time per byte does not depend on the text).
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings);  // none empty
  std::size_t size() const { return strings_.size(); }
  const std::string& operator[](std::size_t index) const { return strings_[index]; }
  // How much of string `index` is matched after `byte`, when `matched` was before.
  std::size_t advance(std::size_t index, std::size_t matched, char byte) const;

 private:
  std::vector<std::string> strings_;
  std::vector<std::vector<std::size_t>> failure_;
};

class StopMatcher {
 public:
  StopMatcher(std::shared_ptr<const StopStrings> strings, bool include_stop);

  struct Released {
    std::string text;  // what may be shown now
    int stop = -1;     // the string that was found: the text ends before it, or after it if it is to be included
  };
  // Text that takes part in matching. Nothing is pushed after a stop was found.
  // Of strings that end at the same byte the longest counts.
  Released push(std::string_view text);
  // Text in which stop strings do not count (before min_tokens): whatever was
  // held comes first.
  std::string pass(std::string_view text);
  // What is still held.
  std::string finish();

 private:
  std::shared_ptr<const StopStrings> strings_;
  bool include_stop_;
  std::vector<std::size_t> matched_;
  std::string held_;
};

}  // namespace ashlar::engine
