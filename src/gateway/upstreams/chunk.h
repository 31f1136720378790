// An event of OpenAI's chats and completions, read without a JSON tree where it says what nearly all say: some text, a
// thought, an end, usage.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ashlar::gateway {

struct Chunk {
  std::optional<int> choice;  // nothing: it has none, and so neither text nor thought nor end
  bool in_delta = false;      // the text is a chat's
  std::string text, thought, finish;
  struct Usage {
    std::optional<int> prompt, completion, cached, reasoning;
    bool operator==(const Usage&) const = default;
  };
  std::optional<Usage> usage;
  bool operator==(const Chunk&) const = default;
};

// nullopt: it says something else, or is no right JSON; whoever reads it into a tree learns which.
std::optional<Chunk> read_chunk(std::string_view event);

}  // namespace ashlar::gateway
