#include "cli/reading.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/log.h"
#include "models/decoder_encoder.h"

namespace ashlar::cli {
namespace {

bool says_rerank(std::string name) {
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.find("rerank") != std::string::npos;
}

Result<std::shared_ptr<models::Encoder>> decoder_as_encoder(const Reading& reading, int max_tokens) {
  models::DecoderReading how{.pooling = reading.loaded.config->pooling.value_or(models::Pooling::last),
                             .max_tokens = std::min(reading.loaded.shape.context, max_tokens)};
  if (ranks(reading.loaded)) {
    how.pooling = models::Pooling::rank;
    const std::int32_t yes = reading.tokenizer->find("yes"), no = reading.tokenizer->find("no");
    if (reading.model->head() == nullptr && (yes < 0 || no < 0))
      return Error{Code::unsupported, fmt::format("{}: a reranker without a classifier, in whose vocabulary 'yes' and "
                                                  "'no' are not one token each",
                                                  reading.name)};
    how.score_tokens = {yes, no};
  }
  return TRY(models::DecoderEncoder::create(reading.model, std::move(how), reading.pool));
}

}  // namespace

bool ranks(const models::LoadedModel& loaded) {
  if (loaded.config->pooling) return *loaded.config->pooling == models::Pooling::rank;
  if (loaded.config->encoder)  // a classifier is there to rank
    return loaded.file->find_tensor("cls.weight") != nullptr || loaded.file->find_tensor("cls.output.weight") != nullptr;
  return loaded.templates.named.contains("rerank") || says_rerank(loaded.facts.name);
}

bool only_reads(const models::LoadedModel& loaded) {
  return loaded.config->encoder || loaded.config->pooling || ranks(loaded);
}

Result<std::unique_ptr<engine::TextReader>> make_reader(const Reading& reading,
                                                        const engine::TextReaderOptions& options) {
  engine::TextReaderParts parts{.names = {reading.name},
                                .encoder = reading.encoder,
                                .tokenizer = reading.tokenizer,
                                .turns = reading.turns,
                                .request_timeout = reading.request_timeout};
  const bool decoder = parts.encoder == nullptr;
  if (decoder) {
    auto encoder = decoder_as_encoder(reading, options.max_text_tokens);
    if (!encoder && only_reads(reading.loaded)) return std::unexpected(encoder.error());
    if (!encoder) {
      log::warn("embeddings_unavailable", {{"model", reading.name}, {"why", encoder.error().message}});
      return nullptr;
    }
    parts.encoder = std::move(*encoder);
  }
  if (parts.encoder->pooling() == models::Pooling::rank) {
    const auto& named = reading.loaded.templates.named;
    const auto own = named.find("rerank");
    const std::string_view pattern = own != named.end() ? std::string_view(own->second)
                                     : decoder          ? engine::yes_no_pattern()
                                                        : std::string_view();
    parts.pair_form = TRY(engine::PairForm::create(reading.tokenizer, pattern));
    // Where tokens are the scores, the first is "yes".
    const bool by_tokens = decoder && reading.model->head() == nullptr;
    parts.relevant =
        by_tokens ? 0 : TRY(engine::relevant_score(parts.encoder->outputs(), reading.loaded.config->labels));
  }
  return std::make_unique<engine::TextReader>(std::move(parts), options);
}

}  // namespace ashlar::cli
