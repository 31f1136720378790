// Pieces of text, which are nearly all events of a stream, read without a JSON tree: an event that equals an earlier
// one byte for byte, but for the text, means the same but for the text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "engine/generator.h"

namespace ashlar::gateway {

// One stream's; one thread.
class PlainChunk {
 public:
  // Remembers `event`, a chunk of OpenAI's chats or completions whose JSON is `chunk`, if text is all that it says.
  void learn(std::string_view event, const Json& chunk);
  // The text of an event like the remembered one; nullopt: it is another, and has to be read.
  std::optional<engine::Text> read(std::string_view event) const;

 private:
  std::string before_, after_;  // of the text, with its quotes; "": nothing is remembered
  int choice_ = 0;
  int tries_ = 0;  // to learn: what never fits is not tried for ever
};

}  // namespace ashlar::gateway
