// Pieces of text, which are nearly all events of a stream, read without reading them: an event that equals an earlier
// one byte for byte, but for the text, means the same but for the text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/generator.h"
#include "gateway/upstreams/chunk.h"

namespace ashlar::gateway {

// One stream's; one thread.
class PlainChunk {
 public:
  // Remembers `event`, which was read as `chunk`, if text is all that it says.
  void learn(std::string_view event, const Chunk& chunk);
  // The text of an event like the remembered one; nullopt: it is another, and has to be read.
  std::optional<engine::Text> read(std::string_view event) const;

 private:
  std::string before_, after_;  // of the text, with its quotes; "": nothing is remembered
  int choice_ = 0;
  int tries_ = 0;  // to learn: what never fits is not tried for ever
};

}  // namespace ashlar::gateway
