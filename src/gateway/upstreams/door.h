// One model of a directory as a generator of its own: what a route's deployment is.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/upstreams/directory.h"

namespace ashlar::gateway {

// Any thread. A model that its places no longer list is asked for where it was last seen among them, so that a door
// which got no other places serves whoever still knew of it when it was taken away. It lists its model under the name
// that it was given, and the model's adapters.
class Door final : public engine::Generator, public engine::CountedNames {
 public:
  Door(std::shared_ptr<const Places> places, std::string model);

  void set(std::shared_ptr<const Places> places);
  // Who answers now. Null: nobody.
  const engine::Generator* behind() const;

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override;
  std::vector<engine::ModelCard> models() const override;
  std::optional<engine::ModelCard> card(const std::string& model) const override;
  std::optional<std::uint64_t> names_version() const override;
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt& prompt,
                                     bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const engine::Chat& chat) const override;
  void when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const override;
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string& model) const override;
  Load load() const override;  // of the place alone
  void load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;

 private:
  struct Seen {
    std::shared_ptr<const Places> places;
    Places::Found found;
  };
  Seen look() const;

  const std::string model_;
  Directory directory_;
  mutable std::mutex mutex_;
  mutable Seen last_;  // GUARDED_BY(mutex_)
};

}  // namespace ashlar::gateway
