#include "engine/reader_set.h"

#include <fmt/format.h>

#include <algorithm>

namespace ashlar::engine {
namespace {

Generator::Refusal no_reader(const std::string& model) {
  if (model.empty()) return {.error = {Code::unsupported, "no model here does that"}};
  return {.error = {Code::unsupported, fmt::format("the model '{}' neither embeds nor ranks texts", model)}};
}

}  // namespace

ReaderSet::ReaderSet(std::vector<std::unique_ptr<TextReader>> readers) : readers_(std::move(readers)) {
  for (const auto& reader : readers_)
    for (const std::string& name : reader->names()) by_name_.emplace(name, reader.get());
}

TextReader* ReaderSet::find(const std::string& model, bool ranks) const {
  if (!model.empty()) {
    const auto found = by_name_.find(model);
    return found == by_name_.end() ? nullptr : found->second;
  }
  const auto found = std::ranges::find(readers_, ranks, [](const auto& reader) { return reader->ranks(); });
  return found == readers_.end() ? nullptr : found->get();
}

void ReaderSet::embed(EmbedRequest request, Embedder::Done done) {
  TextReader* reader = find(request.model, false);
  if (reader == nullptr) return done(std::unexpected(no_reader(request.model)));
  reader->embed(std::move(request), std::move(done));
}

void ReaderSet::rerank(RerankRequest request, Reranker::Done done) {
  TextReader* reader = find(request.model, true);
  if (reader == nullptr) return done(std::unexpected(no_reader(request.model)));
  reader->rerank(std::move(request), std::move(done));
}

}  // namespace ashlar::engine
