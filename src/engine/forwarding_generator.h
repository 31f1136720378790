// A generator in front of another, for those that change a few of its answers and none of its names.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/counted_names.h"
#include "engine/generator.h"

namespace ashlar::engine {

// Hands every call on but start(), which its heir is there for.
class ForwardingGenerator : public Generator, public CountedNames {
 public:
  // `inner` outlives it.
  explicit ForwardingGenerator(Generator& inner) : inner_(inner) {}

  std::vector<ModelCard> models() const override { return inner_.models(); }
  std::optional<ModelCard> card(const std::string& model) const override { return inner_.card(model); }
  std::optional<std::uint64_t> names_version() const override {
    const auto* counted = dynamic_cast<const CountedNames*>(&inner_);
    return counted != nullptr ? counted->names_version() : std::nullopt;
  }
  Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const override {
    return inner_.tokenize(model, prompt, parse_special);
  }
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override {
    return inner_.detokenize(model, ids);
  }
  Result<std::string> render(const std::string& model, const Chat& chat) const override {
    return inner_.render(model, chat);
  }
  void when_ready(const std::string& model, std::function<void(Result<const Generator*>)> then) const override {
    inner_.when_ready(model, std::move(then));
  }
  void load_adapter(AdapterOrder order, std::function<void(Status)> done) override {
    inner_.load_adapter(std::move(order), std::move(done));
  }
  Status unload_adapter(const std::string& name) override { return inner_.unload_adapter(name); }
  std::shared_ptr<const CachedPrefixes> cached_prefixes(const std::string& model) const override {
    return inner_.cached_prefixes(model);
  }
  Load load() const override { return inner_.load(); }

 protected:
  Generator& inner_;
};

}  // namespace ashlar::engine
