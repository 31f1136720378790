// Several generators behind one face, by the names of the models that they serve.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/embedder.h"
#include "engine/generator.h"

namespace ashlar::gateway {

// Immutable; any thread. A name that several serve means the first of them; the others' model is called PLACE/NAME.
class Directory final : public engine::Generator, public engine::Embedder {
 public:
  struct Place {
    std::string name;                        // "": its models have no second name
    engine::Generator* generator = nullptr;  // outlives this, as does the next
    engine::Embedder* embedder = nullptr;    // null: none of its models embeds
  };
  explicit Directory(std::vector<Place> places) : places_(std::move(places)) {}

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override;
  std::vector<engine::ModelCard> models() const override;
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt& prompt,
                                     bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const engine::Chat& chat) const override;
  void when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const override;
  // Sums; healthy if any is, for the others' models are refused by themselves.
  Load load() const override;
  // To the first place that has the adapter's model, or where none is named to the first of all.
  void load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;

  void embed(engine::EmbedRequest request, Done done) override;

 private:
  struct Found {
    const Place* place = nullptr;  // null: nobody serves it
    std::string model;             // as the place calls it
  };
  Found find(const std::string& model) const;

  const std::vector<Place> places_;
};

}  // namespace ashlar::gateway
