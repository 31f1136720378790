// Models under further names, each of which may come to mean another.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/counted_names.h"
#include "engine/embedder.h"
#include "engine/generator.h"

namespace ashlar::cli {

// Immutable; any thread. Knows the further names alone.
class Renamed final : public engine::Generator, public engine::Embedder, public engine::CountedNames {
 public:
  // `names`: a further name to the model's own; both generators outlive it.
  Renamed(engine::Generator& generator, engine::Embedder& embedder, std::map<std::string, std::string> names)
      : generator_(generator), embedder_(embedder), names_(std::move(names)) {}

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override {
    request.model = own(request.model);
    return generator_.start(std::move(request), sink);
  }
  std::vector<engine::ModelCard> models() const override {
    std::vector<engine::ModelCard> out;
    for (const engine::ModelCard& card : generator_.models())
      for (const auto& [name, model] : names_)
        if (card.id == model) {
          out.push_back(card);
          out.back().id = name;
        }
    return out;
  }
  std::optional<std::uint64_t> names_version() const override {
    const auto* counted = dynamic_cast<const engine::CountedNames*>(&generator_);
    return counted != nullptr ? counted->names_version() : std::nullopt;
  }
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt& prompt,
                                     bool parse_special) const override {
    return generator_.tokenize(own(model), prompt, parse_special);
  }
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override {
    return generator_.detokenize(own(model), ids);
  }
  Result<std::string> render(const std::string& model, const engine::Chat& chat) const override {
    return generator_.render(own(model), chat);
  }
  // Once the model has come, whoever asks for it by this name is answered at once.
  void when_ready(const std::string& model, std::function<void(Result<const Generator*>)> then) const override {
    generator_.when_ready(own(model), [this, then = std::move(then)](Result<const Generator*> ready) {
      if (ready) ready = this;
      then(std::move(ready));
    });
  }
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string& model) const override {
    return generator_.cached_prefixes(own(model));
  }
  Load load() const override { return {}; }  // theirs, which others tell
  void embed(engine::EmbedRequest request, Done done) override {
    request.model = own(request.model);
    embedder_.embed(std::move(request), std::move(done));
  }

 private:
  std::string own(const std::string& name) const {
    const auto found = names_.find(name);
    return found == names_.end() ? name : found->second;
  }

  engine::Generator& generator_;
  engine::Embedder& embedder_;
  const std::map<std::string, std::string> names_;
};

}  // namespace ashlar::cli
