#include "engine/residents.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "engine/residents_state.h"

namespace ashlar::engine {
namespace {

// A request that waits for its model, then one that runs.
struct Waiting {
  std::recursive_mutex mutex;     // a ticket may be dropped inside its own sink
  bool dropped = false;           // GUARDED_BY(mutex)
  std::unique_ptr<Ticket> inner;  // GUARDED_BY(mutex)
};

}  // namespace

Residents::Residents(std::shared_ptr<State> state) : state_(std::move(state)) { state_->begin(); }

Residents::~Residents() { state_->end(); }

Result<std::unique_ptr<Residents>> Residents::create(std::vector<ResidentModel> models, ResidencyOptions options) {
  for (auto each = models.begin(); each != models.end(); ++each)
    if (std::find_if(models.begin(), each,
                     [&](const ResidentModel& other) { return other.card.id == each->card.id; }) != each)
      return Error{Code::invalid, fmt::format("two models are to be served as '{}'", each->card.id)};
  return std::unique_ptr<Residents>(new Residents(std::make_shared<State>(std::move(models), std::move(options))));
}

Status Residents::preload(const std::string& model) {
  return state_->use(model, [](Generator&) -> Status { return {}; });
}

std::vector<std::string> Residents::loaded() const { return state_->loaded(); }
Status Residents::unload(const std::string& model) { return state_->unload(model); }
void Residents::unload_idle() { state_->unload_idle(); }

std::expected<std::unique_ptr<Ticket>, Generator::Refusal> Residents::start(Request request, Sink& sink) {
  // Ends the inner request, then its use of the model.
  class HeldTicket : public Ticket {
   public:
    HeldTicket(std::shared_ptr<State> state, SlotPtr slot, std::shared_ptr<Waiting> waiting)
        : state_(std::move(state)), slot_(std::move(slot)), waiting_(std::move(waiting)) {}
    ~HeldTicket() override {
      std::unique_ptr<Ticket> inner;
      {
        const std::lock_guard lock(waiting_->mutex);
        waiting_->dropped = true;
        inner = std::move(waiting_->inner);
      }
      if (inner == nullptr) return;
      inner.reset();
      state_->leave(*slot_);
    }

   private:
    const std::shared_ptr<State> state_;
    const SlotPtr slot_;
    const std::shared_ptr<Waiting> waiting_;
  };

  const Result<SlotPtr> slot = state_->find(request.model);
  if (!slot) return std::unexpected(Refusal{.error = slot.error()});
  const auto waiting = std::make_shared<Waiting>();
  const KeepAlive keep_alive = request.keep_alive;
  const auto held = std::make_shared<Request>(std::move(request));
  const auto later = [state = state_, slot = *slot, waiting, held, &sink](Loaded loaded) {
    const std::lock_guard lock(waiting->mutex);
    if (!loaded) {
      if (!waiting->dropped) sink.on(Failed{.error = loaded.error()});
      return;
    }
    if (!waiting->dropped) {
      auto ticket = loaded->generator->start(std::move(*held), sink);
      if (ticket) {
        waiting->inner = std::move(*ticket);
        return;
      }
      sink.on(std::move(ticket.error()));
    }
    loaded = Resident{};
    state->leave(*slot);
  };
  if (const auto resident = state_->enter(**slot, keep_alive, later)) {
    auto ticket = resident->generator->start(std::move(*held), sink);
    if (!ticket) {
      state_->leave(**slot);
      return std::unexpected(std::move(ticket).error());
    }
    waiting->inner = std::move(*ticket);
  }
  return std::make_unique<HeldTicket>(state_, *slot, waiting);
}

std::vector<ModelCard> Residents::models() const { return state_->cards(); }
std::optional<std::uint64_t> Residents::names_version() const { return state_->names(); }
Status Residents::add(ResidentModel model) { return state_->add(std::move(model)); }
Status Residents::put(ResidentModel model, const std::function<Status(const Resident&)>& check) {
  return state_->put(std::move(model), check);
}
Status Residents::remove(const std::string& model) { return state_->remove(model); }

Result<Tokenized> Residents::tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const {
  return state_->use(model, [&](Generator& generator) { return generator.tokenize(model, prompt, parse_special); });
}

Result<std::string> Residents::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  return state_->use(model, [&](Generator& generator) { return generator.detokenize(model, ids); });
}

Result<std::string> Residents::render(const std::string& model, const Chat& chat) const {
  return state_->use(model, [&](Generator& generator) { return generator.render(model, chat); });
}

void Residents::when_ready(const std::string& model, std::function<void(Result<const Generator*>)> then) const {
  const Result<SlotPtr> slot = state_->find(model);
  if (!slot) return then(slot.error());
  state_->with(*slot, {}, [then = std::move(then)](const Loaded& loaded) {
    if (!loaded) return then(loaded.error());
    then(loaded->generator.get());
  });
}

std::shared_ptr<const CachedPrefixes> Residents::cached_prefixes(const std::string& model) const {
  return state_->cached_prefixes(model);
}

Generator::Load Residents::load() const { return state_->load(); }

void Residents::load_adapter(AdapterOrder order, std::function<void(Status)> done) {
  const Result<SlotPtr> slot = state_->find(order.model);
  if (!slot) return done(slot.error());
  if (state_->taken(order.name, **slot))
    return done(
        Error{Code::invalid, fmt::format("'{}' is served already; the adapter needs another name", order.name)});
  state_->with(*slot, {},
               [state = state_, slot = *slot, order = std::move(order), done = std::move(done)](const Loaded& loaded) {
                 if (!loaded) return done(loaded.error());
                 state->stay(*slot);
                 loaded->generator->load_adapter(order, [state, slot, done](Status status) {
                   state->renamed();
                   done(std::move(status));
                   state->leave(*slot);
                 });
               });
}

Status Residents::unload_adapter(const std::string& name) { return state_->unload_adapter(name); }

void Residents::embed(EmbedRequest request, Embedder::Done done) {
  state_->read(std::move(request), std::move(done), /*ranks=*/false, &Resident::embedder, &Embedder::embed);
}

void Residents::rerank(RerankRequest request, Reranker::Done done) {
  state_->read(std::move(request), std::move(done), /*ranks=*/true, &Resident::reranker, &Reranker::rerank);
}

}  // namespace ashlar::engine
