// A model that reads and does not write, where the others are listed: its tokens are counted, and a request to write
// is refused by name.
#pragma once

#include <memory>

#include "engine/generator.h"
#include "engine/prompter.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// Immutable; any thread.
class SilentGenerator final : public Generator {
 public:
  SilentGenerator(ModelCard card, std::shared_ptr<const text::Tokenizer> tokenizer);

  // unsupported, always.
  std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) override;
  std::vector<ModelCard> models() const override { return {card_}; }
  Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const Chat& chat) const override;
  Load load() const override { return {}; }

 private:
  Error refusal() const;

  ModelCard card_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  Prompter prompter_;
};

}  // namespace ashlar::engine
