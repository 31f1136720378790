// Several generators behind one face, by the names of the models that they serve; others may take their place while
// requests run.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gateway/upstreams/places.h"

namespace ashlar::gateway {

// Any thread. A request holds the place that answers it, so that a place which is taken away lives until its last
// ticket is dropped, and its last answer given. Whoever took it away should be the last to hold it: a place ends with
// its threads, and they must not end it.
class Directory final : public engine::Generator, public engine::Embedder, public engine::CountedNames {
 public:
  // Whether requests with marked data are refused (forbidden) where the place does not list all of its classes.
  enum class Marked { anywhere, where_listed };

  explicit Directory(std::vector<Place> places, Marked marked = Marked::anywhere)
      : Directory(std::make_shared<const Places>(std::move(places)), marked) {}
  explicit Directory(std::shared_ptr<const Places> places, Marked marked = Marked::anywhere)
      : marked_(marked), places_(std::move(places)) {}

  // For requests that come; those that run stay where they are.
  void set(std::shared_ptr<const Places> places);
  std::shared_ptr<const Places> places() const;

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override;
  std::vector<engine::ModelCard> models() const override;
  std::optional<engine::ModelCard> card(const std::string& model) const override;
  std::optional<std::uint64_t> names_version() const override;
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt& prompt,
                                     bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const engine::Chat& chat) const override;
  void when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const override;
  // Sums; healthy if any is, for the others' models are refused by themselves.
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string& model) const override;
  Load load() const override;
  // To the place that has the adapter's model, or where none is named to the first of all.
  void load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;

  // Where no model is named, the first place that embeds is asked.
  void embed(engine::EmbedRequest request, Done done) override;

 private:
  Status may_see(const Place& place, const std::string& model, const engine::Sender& sender) const;

  const Marked marked_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Places> places_;  // GUARDED_BY(mutex_); never null
};

// The ticket of a request at `place`, which lives as long as it.
std::unique_ptr<engine::Ticket> hold(const Place& place, std::unique_ptr<engine::Ticket> ticket);

}  // namespace ashlar::gateway
