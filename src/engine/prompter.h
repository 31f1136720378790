// From a prompt as it was sent to the ids that the model reads.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/generator.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// Immutable; any thread.
class Prompter {
 public:
  // `chat_template` may be null: then chats are unsupported unless they bring their own.
  Prompter(std::shared_ptr<const text::Tokenizer> tokenizer, std::shared_ptr<const text::ChatTemplate> chat_template);

  bool has_template() const { return template_ != nullptr; }

  // invalid: the template refused, or the conversation does not suit what was asked.
  Result<std::string> render(const Chat& chat, std::time_t now) const;

  struct Tokens {
    std::vector<std::int32_t> ids;
    std::string text;  // as rendered or sent; decoded if ids were sent and `want_text`
  };
  // Ids are checked to be in the vocabulary (invalid).
  Result<Tokens> tokens(const Prompt& prompt, bool parse_special, bool want_text) const;

 private:
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const text::ChatTemplate> template_;
  std::string bos_, eos_;
};

}  // namespace ashlar::engine
