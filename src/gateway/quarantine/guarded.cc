#include <utility>

#include "engine/counted_names.h"
#include "gateway/quarantine/quarantine.h"

namespace ashlar::gateway {
namespace {

// Between the generator's events and the client's sink: who came to the end is no suspect any more.
class Run final : public engine::Sink, public engine::Ticket {
 public:
  Run(std::unique_ptr<Quarantine::Pass> pass, engine::Sink& sink) : pass_(std::move(pass)), sink_(sink) {}
  void on(engine::Event event) override {
    if (std::holds_alternative<engine::Finished>(event)) pass_->cleared();
    sink_.on(std::move(event));  // last: whoever holds the ticket may drop it, and us
  }
  void hold(std::unique_ptr<engine::Ticket> inner) { inner_ = std::move(inner); }

 private:
  const std::unique_ptr<Quarantine::Pass> pass_;
  engine::Sink& sink_;
  std::unique_ptr<engine::Ticket> inner_;  // dies first
};

class Guarded final : public engine::Generator, public engine::CountedNames {
 public:
  Guarded(engine::Generator& inner, Quarantine& quarantine) : inner_(inner), quarantine_(quarantine) {}

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override {
    auto pass = quarantine_.enter(prompt_hash(request));
    if (!pass) return std::unexpected(std::move(pass.error()));
    auto run = std::make_unique<Run>(std::move(*pass), sink);
    engine::Sink& own = *run;
    auto started = inner_.start(std::move(request), own);
    if (!started) return std::unexpected(std::move(started.error()));
    run->hold(std::move(*started));
    return run;
  }

  std::vector<engine::ModelCard> models() const override { return inner_.models(); }
  std::optional<engine::ModelCard> card(const std::string& model) const override { return inner_.card(model); }
  std::optional<std::uint64_t> names_version() const override {
    const auto* counted = dynamic_cast<const engine::CountedNames*>(&inner_);
    return counted != nullptr ? counted->names_version() : std::nullopt;
  }
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt& prompt,
                                     bool parse_special) const override {
    return inner_.tokenize(model, prompt, parse_special);
  }
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override {
    return inner_.detokenize(model, ids);
  }
  Result<std::string> render(const std::string& model, const engine::Chat& chat) const override {
    return inner_.render(model, chat);
  }
  void when_ready(const std::string& model, std::function<void(Result<const Generator*>)> then) const override {
    inner_.when_ready(model, std::move(then));
  }
  void load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) override {
    inner_.load_adapter(std::move(order), std::move(done));
  }
  Status unload_adapter(const std::string& name) override { return inner_.unload_adapter(name); }
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string& model) const override {
    return inner_.cached_prefixes(model);
  }
  Load load() const override { return inner_.load(); }

 private:
  engine::Generator& inner_;
  Quarantine& quarantine_;
};

}  // namespace

std::unique_ptr<engine::Generator> guarded(engine::Generator& inner, Quarantine& quarantine) {
  return std::make_unique<Guarded>(inner, quarantine);
}

}  // namespace ashlar::gateway
