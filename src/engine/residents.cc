#include "engine/residents.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/metrics.h"
#include "base/threads.h"
#include "engine/prefix_book.h"

namespace ashlar::engine {
namespace {

using Loaded = Result<Resident>;

Counter models_loaded{"engine_models_loaded_total", "Models brought into memory because they were asked for."};
Counter models_unloaded{"engine_models_unloaded_total", "Models that left memory, idle or for another's sake."};
Gauge models_resident{"engine_models_resident", "Models in memory, of those that come and go."};

struct Waiter {
  std::function<void(Loaded)> call;
  KeepAlive keep_alive;
};

// served: it takes requests. staged: it takes a served one's place once it has shown that it can. retired: it ends
// those that it has.
enum class Standing { served, staged, retired };

struct Slot : std::enable_shared_from_this<Slot> {
  std::string name;              // fixed
  ResidentModel model;           // fixed
  std::vector<ModelCard> known;  // its card and its adapters', as they were when it was last in memory
  Resident resident;             // without a generator: not in memory
  bool loading = false;
  int users = 0;         // tickets and calls; it stays while there are any
  bool leaving = false;  // takes nobody new: another waits for its room
  Clock::time_point used;
  KeepAlive keep_alive;        // as a request asked; nothing: the options'
  std::deque<Waiter> waiting;  // each becomes a user, unless it gets an error
  Standing standing = Standing::served;
  std::optional<Clock::time_point> ends;  // served and listed no more: retired then

  bool listed() const { return standing == Standing::served && !ends; }
  bool loaded() const { return resident.generator != nullptr; }
  std::vector<ModelCard> cards() const { return loaded() ? resident.generator->models() : known; }
};

// Tickets and calls hold theirs, whatever becomes of it meanwhile.
using SlotPtr = std::shared_ptr<Slot>;

// How long a model that was taken away is found by those who knew of it.
constexpr std::chrono::seconds kKnown{1};

bool means(const ModelCard& card, const std::string& name) {
  return card.id == name || (!card.parent.empty() && card.parent + ":" + card.id == name);
}

// Those that it had when it left. One that cannot come back is gone.
void restore_adapters(const std::vector<ModelCard>& known, Generator& generator) {
  for (const ModelCard& card : known) {
    if (card.parent.empty()) continue;
    const Status added = add_adapter(generator, {.model = card.parent, .name = card.id, .path = card.root});
    if (!added) log::warn("adapter_not_loaded", {{"adapter", card.id}, {"why", added.error().message}});
  }
}

Generator::Refusal no_reader(const std::string& model) {
  if (model.empty()) return {.error = {Code::unsupported, "no model here does that"}};
  return {.error = {Code::unsupported, fmt::format("the model '{}' neither embeds nor ranks texts", model)}};
}

}  // namespace

class Residents::State : public std::enable_shared_from_this<State> {
 public:
  State(std::vector<ResidentModel> models, ResidencyOptions options) : options_(std::move(options)) {
    for (ResidentModel& model : models) slots_.push_back(make_slot(std::move(model), Standing::served));
  }

  void begin() {
    thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
  }
  void end() {
    thread_.request_stop();
    thread_.join();
    Lock lock(mutex_);
    for (const SlotPtr& slot : std::vector(slots_)) {
      const auto waiting = std::exchange(slot->waiting, {});
      if (slot->loaded()) {
        slot->known = slot->cards();
        models_resident.add(-1);
      }
      Resident resident = std::exchange(slot->resident, {});
      lock.unlock();
      for (const Waiter& each : waiting) each.call(Error{Code::unavailable, "the server is shutting down"});
      resident = {};  // fails what still runs
      lock.lock();
    }
  }

  Result<SlotPtr> find(const std::string& name) {
    const std::lock_guard lock(mutex_);
    if (const SlotPtr found = by_name(name)) return found;
    std::string served;
    for (const SlotPtr& slot : slots_) {
      if (!slot->listed()) continue;
      for (const ModelCard& card : slot->cards()) {
        if (name.empty() || means(card, name)) return slot;
        served.append(served.empty() ? "" : ", ").append(card.id);
      }
    }
    return Error{Code::not_found, fmt::format("there is no model '{}' here, but {}", name, served)};
  }

  // Whose vectors or scores are asked for.
  std::expected<SlotPtr, Generator::Refusal> find_reader(const std::string& model, bool ranks) {
    const std::lock_guard lock(mutex_);
    for (const SlotPtr& slot : slots_) {
      if (slot->standing != Standing::served) continue;
      const ModelCard& card = slot->known.front();
      const bool does = ranks ? card.ranks : card.embedding > 0;
      // Named, a model says itself which of the two it does.
      if (model.empty() ? does && slot->listed() : slot->name == model && (card.ranks || card.embedding > 0))
        return slot;
    }
    return std::unexpected(no_reader(model));
  }

  // Whether an adapter of `owner` cannot be called so, for another's sake.
  bool taken(const std::string& name, const Slot& owner) {
    const std::lock_guard lock(mutex_);
    for (const SlotPtr& slot : slots_) {
      if (slot->standing != Standing::served) continue;
      for (const ModelCard& card : slot->cards())
        if (card.id == name && (slot.get() != &owner || card.parent.empty())) return true;
    }
    return false;
  }

  // Names have changed, and what was changed can be seen.
  void renamed() { ++names_; }
  std::uint64_t names() const { return names_; }

  Status add(ResidentModel model) {
    const std::lock_guard lock(mutex_);
    const SlotPtr taken = by_name(model.card.id);
    if (taken != nullptr && taken->listed())
      return Error{Code::invalid, fmt::format("two models are to be served as '{}'", model.card.id)};
    if (taken != nullptr) retire(*taken);
    slots_.push_back(make_slot(std::move(model), Standing::served));
    renamed();
    return {};
  }

  Status put(ResidentModel model, const std::function<Status(const Resident&)>& check) {
    const std::string name = model.card.id;
    const SlotPtr fresh = make_slot(std::move(model), Standing::staged);
    {
      const std::lock_guard lock(mutex_);
      if (const SlotPtr old = by_name(name))
        for (const ModelCard& card : old->cards())
          if (!card.parent.empty()) fresh->known.push_back(card);
      slots_.push_back(fresh);
    }
    Loaded loaded = wait_for(*fresh);
    Status fine;
    if (!loaded)
      fine = std::unexpected(loaded.error());
    else if (check)
      fine = check(*loaded);
    {
      const std::lock_guard lock(mutex_);
      fresh->standing = fine ? Standing::served : Standing::retired;
      if (fine) take_place(fresh);
      renamed();
    }
    if (loaded) {
      loaded = Resident{};
      leave(*fresh);
    } else {
      const std::lock_guard lock(mutex_);
      stir();
    }
    return fine;
  }

  Status remove(const std::string& name) {
    const std::lock_guard lock(mutex_);
    const SlotPtr slot = by_name(name);
    if (slot == nullptr || !slot->listed())
      return Error{Code::not_found, fmt::format("there is no model '{}' here", name)};
    slot->ends = Clock::now() + kKnown;
    renamed();
    stir();
    return {};
  }

  // The model, if it can be used at once; else nothing, and `later` is called with it
  // on our thread. Either way the caller must leave() it.
  std::optional<Resident> enter(Slot& slot, KeepAlive keep_alive, std::function<void(Loaded)> later) {
    const std::lock_guard lock(mutex_);
    slot.used = Clock::now();
    if (slot.loaded() && !slot.leaving) {
      admit(slot, keep_alive);
      return slot.resident;
    }
    slot.waiting.push_back({.call = std::move(later), .keep_alive = keep_alive});
    // One that has gone since it was found comes back for this.
    if (std::ranges::find(slots_, &slot, &SlotPtr::get) == slots_.end()) slots_.push_back(slot.shared_from_this());
    stir();
    return std::nullopt;
  }
  // One use more, by who has entered.
  void stay(Slot& slot) {
    const std::lock_guard lock(mutex_);
    ++slot.users;
  }
  void leave(Slot& slot) {
    const std::lock_guard lock(mutex_);
    slot.used = Clock::now();
    if (--slot.users == 0) stir();
  }

  // enter(), waited for.
  Loaded wait_for(Slot& slot) {
    const auto promise = std::make_shared<std::promise<Loaded>>();
    auto future = promise->get_future();
    if (auto resident = enter(slot, {}, [promise](Loaded loaded) { promise->set_value(std::move(loaded)); }))
      return std::move(*resident);
    return future.get();
  }

  // Calls it with the model, at once or on our thread. What goes on after the call has to stay().
  void with(const SlotPtr& slot, KeepAlive keep_alive, std::function<void(const Loaded&)> call) {
    const auto run = [self = shared_from_this(), slot, call = std::move(call)](Loaded loaded) {
      call(loaded);
      if (!loaded) return;
      loaded = Resident{};  // our thread is to be the last to have it
      self->leave(*slot);
    };
    if (auto resident = enter(*slot, keep_alive, run)) run(std::move(*resident));
  }

  template <class F>
  auto use(const std::string& model, F&& call) -> decltype(call(std::declval<Generator&>())) {
    const SlotPtr slot = TRY(find(model));
    Resident resident = TRY(wait_for(*slot));
    auto result = call(*resident.generator);
    resident = {};
    leave(*slot);
    return result;
  }

  Status unload_adapter(const std::string& name) {
    const SlotPtr slot = TRY(find(name));
    {
      const std::lock_guard lock(mutex_);
      if (!slot->loaded() && !slot->loading) {
        const auto gone =
            std::erase_if(slot->known, [&](const ModelCard& card) { return !card.parent.empty() && card.id == name; });
        renamed();
        if (gone > 0) return {};
      }
    }
    const Status done = use(name, [&](Generator& generator) { return generator.unload_adapter(name); });
    renamed();
    return done;
  }

  // Hands a request to a model's reader, which tells `done`. `face`: which of a Resident's it is.
  template <class Face, class Request, class Answer>
  void read(Request request, std::function<void(Answer)> done, bool ranks, std::shared_ptr<Face> Resident::* face,
            void (Face::*ask)(Request, std::function<void(Answer)>)) {
    const auto found = find_reader(request.model, ranks);
    if (!found) return done(std::unexpected(found.error()));
    const SlotPtr slot = *found;
    const KeepAlive keep_alive = request.keep_alive;
    with(slot, keep_alive,
         [self = shared_from_this(), slot, face, ask, held = std::make_shared<Request>(std::move(request)),
          done = std::move(done)](const Loaded& loaded) {
           if (!loaded) return done(std::unexpected(Generator::Refusal{.error = loaded.error()}));
           Face* reader = ((*loaded).*face).get();
           if (reader == nullptr) return done(std::unexpected(no_reader(slot->name)));
           self->stay(*slot);
           (reader->*ask)(std::move(*held), [self, slot, done](Answer answer) {
             done(std::move(answer));
             self->leave(*slot);
           });
         });
  }

  std::vector<ModelCard> cards() {
    const std::lock_guard lock(mutex_);
    std::vector<ModelCard> out;
    for (const SlotPtr& slot : slots_) {
      if (!slot->listed()) continue;
      for (ModelCard& card : slot->cards()) out.push_back(std::move(card));
    }
    return out;
  }
  void unload_idle() {
    const std::lock_guard lock(mutex_);
    for (const SlotPtr& slot : slots_)
      slot->leaving = slot->leaving || (slot->loaded() && slot->users == 0 && slot->waiting.empty());
    stir();
  }
  Status unload(const std::string& model) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::ranges::find_if(slots_, [&](const SlotPtr& slot) { return slot->listed() && slot->name == model; });
    if (found == slots_.end()) return Error{Code::not_found, fmt::format("no model here is called '{}'", model)};
    (*found)->leaving = (*found)->leaving || (*found)->loaded();
    stir();
    return {};
  }
  std::vector<std::string> loaded() {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> out;
    for (const SlotPtr& slot : slots_)
      if (slot->loaded() && slot->listed()) out.push_back(slot->name);
    return out;
  }
  std::shared_ptr<const CachedPrefixes> cached_prefixes(const std::string& model) {
    static const auto kNothing = std::make_shared<const PrefixBook>(0);
    const Result<SlotPtr> slot = find(model);
    if (!slot) return nullptr;
    const std::lock_guard lock(mutex_);
    return (*slot)->loaded() ? (*slot)->resident.generator->cached_prefixes(model) : kNothing;
  }
  Load load() {
    const std::lock_guard lock(mutex_);
    Load sum;
    for (const SlotPtr& slot : slots_) {
      sum.waiting += static_cast<int>(slot->waiting.size());
      if (!slot->loaded()) continue;
      const Load one = slot->resident.generator->load();
      sum.running += one.running;
      sum.waiting += one.waiting;
      sum.kv_used = std::max(sum.kv_used, one.kv_used);
      sum.prefill_tokens_per_second += one.prefill_tokens_per_second;
      sum.decode_tokens_per_second += one.decode_tokens_per_second;
      sum.healthy = sum.healthy && one.healthy;
    }
    return sum;
  }

 private:
  using Lock = std::unique_lock<std::mutex>;

  static SlotPtr make_slot(ResidentModel model, Standing standing) {
    auto slot = std::make_shared<Slot>();
    slot->name = model.card.id;
    slot->known = {model.card};
    slot->model = std::move(model);
    slot->standing = standing;
    return slot;
  }

  // Under the lock, as are the next ones. Null: none.
  SlotPtr by_name(const std::string& name) const {
    for (const SlotPtr& slot : slots_)
      if (slot->standing == Standing::served && slot->name == name) return slot;
    return nullptr;
  }

  void retire(Slot& slot) {
    slot.standing = Standing::retired;
    slot.ends.reset();
    stir();
  }

  // `fresh`, which is served now and stands last, comes to stand where the one of its name did.
  void take_place(const SlotPtr& fresh) {
    const auto old = std::ranges::find_if(slots_, [&](const SlotPtr& slot) {
      return slot != fresh && slot->standing == Standing::served && slot->name == fresh->name;
    });
    if (old == slots_.end()) return;
    retire(**old);
    std::iter_swap(old, std::ranges::find(slots_, fresh));
  }

  // Those whose time has come, and those that ended all that they had. False: none.
  bool retire_some() {
    const auto now = Clock::now();
    for (const SlotPtr& slot : slots_)
      if (slot->ends && now >= *slot->ends) retire(*slot);
    return std::erase_if(slots_, [](const SlotPtr& slot) {
             return slot->standing == Standing::retired && !slot->loaded() && !slot->loading && slot->users == 0 &&
                    slot->waiting.empty();
           }) > 0;
  }

  void stir() {
    stirred_ = true;
    changed_.notify_all();
  }

  void work(const std::stop_token& stop) {
    name_this_thread("residents");
    Lock lock(mutex_);
    while (!stop.stop_requested()) {
      stirred_ = false;
      if (serve_one(lock) || expire_one(lock) || retire_some()) continue;
      changed_.wait_until(lock, stop, next_look(), [this] { return stirred_; });
    }
  }

  static void admit(Slot& slot, KeepAlive keep_alive) {
    ++slot.users;
    if (keep_alive) slot.keep_alive = keep_alive;
  }

  // When an idle model leaves because nobody asks for it.
  std::optional<Clock::time_point> end_of(const Slot& slot) const {
    const auto keep_alive = slot.keep_alive.value_or(options_.keep_alive);
    if (!slot.loaded() || slot.users > 0 || keep_alive.count() < 0) return std::nullopt;
    return slot.used + keep_alive;
  }

  // When to look again if nobody calls.
  Clock::time_point next_look() const {
    auto when = Clock::now() + std::chrono::hours(1);
    for (const SlotPtr& slot : slots_) {
      if (const auto end = end_of(*slot)) when = std::min(when, *end);
      if (slot->ends) when = std::min(when, *slot->ends);
    }
    return when;
  }

  // Gives one waiting model to those who wait for it. False: nobody waits, or for
  // room only.
  bool serve_one(Lock& lock) {
    // One that is to take another's place comes first, or that one's requests might keep it out for ever.
    std::vector<SlotPtr> in_turn;
    for (const bool staged : {true, false})
      std::ranges::copy_if(slots_, std::back_inserter(in_turn),
                           [&](const SlotPtr& slot) { return (slot->standing == Standing::staged) == staged; });
    for (const SlotPtr& each : in_turn) {
      Slot& slot = *each;
      if (slot.waiting.empty()) continue;
      if (slot.loaded() && slot.leaving) continue;
      if (!slot.loaded() && !make_room(slot, lock)) continue;
      if (!slot.loaded())
        if (const Status came = bring(slot, lock); !came) return refuse(slot, came.error(), lock);
      hand_out(slot, lock);
      return true;
    }
    return false;
  }

  Status bring(Slot& slot, Lock& lock) {
    slot.loading = true;
    const std::vector<ModelCard> known = slot.known;
    lock.unlock();
    Loaded made = slot.model.load();
    if (made) restore_adapters(known, *made->generator);
    lock.lock();
    slot.loading = false;
    if (!made) return std::unexpected(made.error());
    slot.resident = std::move(*made);
    slot.known = slot.cards();
    renamed();
    models_loaded.add();
    models_resident.add(1);
    return {};
  }

  void hand_out(Slot& slot, Lock& lock) {
    const auto waiting = std::exchange(slot.waiting, {});
    for (const Waiter& each : waiting) admit(slot, each.keep_alive);
    slot.used = Clock::now();
    const Resident resident = slot.resident;
    lock.unlock();
    for (const Waiter& each : waiting) each.call(resident);
    lock.lock();
  }

  // Where memory was short and another can go, it goes and the load is tried again.
  bool refuse(Slot& slot, const Error& error, Lock& lock) {
    if (error.code == Code::exhausted)
      if (const SlotPtr other = least_used(); other != nullptr) {
        evict(*other, lock);
        return true;
      }
    log::warn("model_not_loaded", {{"model", slot.name}, {"why", error.message}});
    const auto waiting = std::exchange(slot.waiting, {});
    lock.unlock();
    for (const Waiter& each : waiting) each.call(error);
    lock.lock();
    return true;
  }

  // True: `slot` may be loaded now.
  bool make_room(const Slot& slot, Lock& lock) {
    while (true) {
      const auto loaded = std::ranges::count_if(slots_, [](const SlotPtr& each) { return each->loaded(); });
      const bool too_many = options_.max_loaded > 0 && loaded >= options_.max_loaded;
      const bool too_large = options_.available && slot.model.bytes > options_.available();
      if (loaded == 0 || (!too_many && !too_large)) return true;
      if (const SlotPtr idle = least_used()) {
        evict(*idle, lock);
        continue;
      }
      // All are in use: the one that was asked for longest ago takes nobody new.
      if (std::ranges::none_of(slots_, [](const SlotPtr& each) { return each->leaving; })) {
        SlotPtr oldest;
        for (const SlotPtr& each : slots_)
          if (each->loaded() && (oldest == nullptr || each->used < oldest->used)) oldest = each;
        oldest->leaving = true;
      }
      return false;
    }
  }

  // Of those that nobody uses; null: all are in use.
  SlotPtr least_used() const {
    SlotPtr found;
    for (const SlotPtr& slot : slots_)
      if (slot->loaded() && slot->users == 0 && (found == nullptr || slot->used < found->used)) found = slot;
    return found;
  }

  bool expire_one(Lock& lock) {
    const auto now = Clock::now();
    for (const SlotPtr& each : slots_) {
      if (!each->loaded() || each->users > 0) continue;
      const auto end = end_of(*each);
      const bool retired = each->standing == Standing::retired && each->waiting.empty();
      if (!(end && now >= *end) && !each->leaving && !retired) continue;
      const SlotPtr slot = each;  // which the list may lose meanwhile
      evict(*slot, lock);
      return true;
    }
    return false;
  }

  void evict(Slot& slot, Lock& lock) {
    slot.known = slot.cards();
    Resident resident = std::exchange(slot.resident, {});
    slot.leaving = false;
    slot.keep_alive.reset();
    lock.unlock();
    resident = {};  // waits for its threads
    lock.lock();
    models_unloaded.add();
    models_resident.add(-1);
    renamed();
    log::info("model_unloaded", {{"model", slot.name}});
  }

  const ResidencyOptions options_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool stirred_ = false;        // GUARDED_BY(mutex_): somebody came or left
  std::vector<SlotPtr> slots_;  // GUARDED_BY(mutex_), as are they, but for names and loads
  std::atomic<std::uint64_t> names_ = 1;
  std::jthread thread_;
};

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
