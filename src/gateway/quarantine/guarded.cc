#include <utility>

#include "engine/forwarding_generator.h"
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

class Guarded final : public engine::ForwardingGenerator {
 public:
  Guarded(engine::Generator& inner, Quarantine& quarantine) : ForwardingGenerator(inner), quarantine_(quarantine) {}

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

 private:
  Quarantine& quarantine_;
};

}  // namespace

std::unique_ptr<engine::Generator> guarded(engine::Generator& inner, Quarantine& quarantine) {
  return std::make_unique<Guarded>(inner, quarantine);
}

}  // namespace ashlar::gateway
