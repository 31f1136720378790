#include "engine/silent_generator.h"

#include <fmt/format.h>

namespace ashlar::engine {

SilentGenerator::SilentGenerator(ModelCard card, std::shared_ptr<const text::Tokenizer> tokenizer)
    : card_(std::move(card)), tokenizer_(std::move(tokenizer)), prompter_(tokenizer_, nullptr) {
  card_.generates = false;
}

Error SilentGenerator::refusal() const {
  return {Code::unsupported, fmt::format("the model '{}' does not generate text: it is served by {}", card_.id,
                                         card_.ranks ? "/v1/rerank" : "/v1/embeddings")};
}

std::expected<std::unique_ptr<Ticket>, Generator::Refusal> SilentGenerator::start(Request, Sink&) {
  return std::unexpected(Refusal{.error = refusal()});
}

Result<Tokenized> SilentGenerator::tokenize(const std::string&, const Prompt& prompt, bool parse_special) const {
  Tokenized out{.ids = TRY(prompter_.tokens(prompt, parse_special, false)).ids, .context = card_.context};
  for (const std::int32_t id : out.ids) out.pieces.emplace_back(tokenizer_->piece(id, true));
  return out;
}

Result<std::string> SilentGenerator::detokenize(const std::string&, const std::vector<std::int32_t>& ids) const {
  for (const std::int32_t id : ids)
    if (id < 0 || id >= tokenizer_->size())
      return Error{Code::invalid, fmt::format("there is no token {}: the vocabulary has {}", id, tokenizer_->size())};
  return tokenizer_->decode(ids, true);
}

Result<std::string> SilentGenerator::render(const std::string&, const Chat&) const { return refusal(); }

}  // namespace ashlar::engine
