#include "engine/residents.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/metrics.h"
#include "base/threads.h"

namespace ashlar::engine {
namespace {

using Loaded = Result<std::shared_ptr<Generator>>;

Counter models_loaded{"engine_models_loaded_total", "Models brought into memory because they were asked for."};
Counter models_unloaded{"engine_models_unloaded_total", "Models that left memory, idle or for another's sake."};
Gauge models_resident{"engine_models_resident", "Models in memory, of those that come and go."};

struct Slot {
  std::string name;  // fixed
  ResidentModel model;
  std::shared_ptr<Generator> generator;  // null: not in memory
  int users = 0;                         // tickets and calls; it stays while there are any
  bool leaving = false;                  // takes nobody new: another waits for its room
  Clock::time_point used;
  std::deque<std::function<void(Loaded)>> waiting;  // each becomes a user, unless it gets an error
};

}  // namespace

class Residents::State : public std::enable_shared_from_this<State> {
 public:
  State(std::vector<ResidentModel> models, ResidencyOptions options) : options_(std::move(options)) {
    for (ResidentModel& model : models) slots_.push_back({.name = model.card.id, .model = std::move(model)});
  }

  void begin() {
    thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
  }
  void end() {
    thread_.request_stop();
    thread_.join();
    Lock lock(mutex_);
    for (Slot& slot : slots_) {
      const auto waiting = std::exchange(slot.waiting, {});
      const auto generator = std::exchange(slot.generator, nullptr);
      lock.unlock();
      for (const auto& each : waiting) each(Error{Code::unavailable, "the server is shutting down"});
      if (generator) models_resident.add(-1);
      lock.lock();
    }
  }

  Result<Slot*> find(const std::string& name) {
    if (name.empty()) return &slots_.front();
    const auto found = std::ranges::find_if(slots_, [&](const Slot& slot) { return slot.name == name; });
    if (found != slots_.end()) return &*found;
    std::string served;
    for (const Slot& slot : slots_) served.append(served.empty() ? "" : ", ").append(slot.name);
    return Error{Code::not_found, fmt::format("there is no model '{}' here, but {}", name, served)};
  }

  // The model, if it can be used at once; else null, and `later` is called with it
  // on our thread. Either way the caller must leave() it.
  std::shared_ptr<Generator> enter(Slot& slot, std::function<void(Loaded)> later) {
    const std::lock_guard lock(mutex_);
    slot.used = Clock::now();
    if (slot.generator && !slot.leaving) {
      ++slot.users;
      return slot.generator;
    }
    slot.waiting.push_back(std::move(later));
    stir();
    return nullptr;
  }
  void leave(Slot& slot) {
    const std::lock_guard lock(mutex_);
    --slot.users;
    slot.used = Clock::now();
    stir();
  }

  // enter(), waited for.
  Loaded wait_for(Slot& slot) {
    const auto promise = std::make_shared<std::promise<Loaded>>();
    auto future = promise->get_future();
    if (auto generator = enter(slot, [promise](Loaded loaded) { promise->set_value(std::move(loaded)); }))
      return generator;
    return future.get();
  }

  template <class F>
  auto use(const std::string& model, F&& call) -> decltype(call(std::declval<Generator&>())) {
    Slot* slot = TRY(find(model));
    std::shared_ptr<Generator> generator = TRY(wait_for(*slot));
    auto result = call(*generator);
    generator.reset();
    leave(*slot);
    return result;
  }

  std::vector<ModelCard> cards() {
    const std::lock_guard lock(mutex_);
    std::vector<ModelCard> out;
    for (const Slot& slot : slots_) out.push_back(slot.model.card);
    return out;
  }
  std::vector<std::string> loaded() {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> out;
    for (const Slot& slot : slots_)
      if (slot.generator) out.push_back(slot.name);
    return out;
  }
  Load load() {
    const std::lock_guard lock(mutex_);
    Load sum;
    for (const Slot& slot : slots_) {
      sum.waiting += static_cast<int>(slot.waiting.size());
      if (!slot.generator) continue;
      const Load one = slot.generator->load();
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

  void stir() {
    stirred_ = true;
    changed_.notify_all();
  }

  void work(const std::stop_token& stop) {
    name_this_thread("residents");
    Lock lock(mutex_);
    while (!stop.stop_requested()) {
      stirred_ = false;
      if (serve_one(lock) || expire_one(lock)) continue;
      changed_.wait_until(lock, stop, next_look(), [this] { return stirred_; });
    }
  }

  // When to look again if nobody calls.
  Clock::time_point next_look() const {
    auto when = Clock::now() + std::chrono::hours(1);
    for (const Slot& slot : slots_)
      if (slot.generator && slot.users == 0 && options_.keep_alive.count() >= 0)
        when = std::min(when, slot.used + options_.keep_alive);
    return when;
  }

  // Gives one waiting model to those who wait for it. False: nobody waits, or for
  // room only.
  bool serve_one(Lock& lock) {
    for (Slot& slot : slots_) {
      if (slot.waiting.empty()) continue;
      if (slot.generator && slot.leaving) continue;
      if (!slot.generator && !make_room(slot, lock)) continue;
      if (!slot.generator) {
        lock.unlock();
        Loaded made = slot.model.load();
        lock.lock();
        if (!made) return refuse(slot, made.error(), lock);
        slot.generator = std::move(*made);
        slot.model.card = slot.generator->models().front();
        models_loaded.add();
        models_resident.add(1);
      }
      hand_out(slot, lock);
      return true;
    }
    return false;
  }

  void hand_out(Slot& slot, Lock& lock) {
    auto waiting = std::exchange(slot.waiting, {});
    slot.users += static_cast<int>(waiting.size());
    slot.used = Clock::now();
    const auto generator = slot.generator;
    lock.unlock();
    for (auto& each : waiting) each(generator);
    lock.lock();
  }

  // Where memory was short and another can go, it goes and the load is tried again.
  bool refuse(Slot& slot, const Error& error, Lock& lock) {
    if (error.code == Code::exhausted)
      if (Slot* other = least_used(); other != nullptr) {
        evict(*other, lock);
        return true;
      }
    log::warn("model_not_loaded", {{"model", slot.name}, {"why", error.message}});
    auto waiting = std::exchange(slot.waiting, {});
    lock.unlock();
    for (auto& each : waiting) each(error);
    lock.lock();
    return true;
  }

  // True: `slot` may be loaded now.
  bool make_room(const Slot& slot, Lock& lock) {
    while (true) {
      const auto loaded = std::ranges::count_if(slots_, [](const Slot& each) { return each.generator != nullptr; });
      const bool too_many = options_.max_loaded > 0 && loaded >= options_.max_loaded;
      const bool too_large = options_.available && slot.model.bytes > options_.available();
      if (loaded == 0 || (!too_many && !too_large)) return true;
      if (Slot* idle = least_used()) {
        evict(*idle, lock);
        continue;
      }
      // All are in use: the one that was asked for longest ago takes nobody new.
      if (std::ranges::none_of(slots_, &Slot::leaving)) {
        Slot* oldest = nullptr;
        for (Slot& each : slots_)
          if (each.generator && (oldest == nullptr || each.used < oldest->used)) oldest = &each;
        oldest->leaving = true;
      }
      return false;
    }
  }

  // Of those that nobody uses; null: all are in use.
  Slot* least_used() {
    Slot* found = nullptr;
    for (Slot& slot : slots_)
      if (slot.generator && slot.users == 0 && (found == nullptr || slot.used < found->used)) found = &slot;
    return found;
  }

  bool expire_one(Lock& lock) {
    const auto now = Clock::now();
    for (Slot& slot : slots_) {
      if (!slot.generator || slot.users > 0) continue;
      const bool idle = options_.keep_alive.count() >= 0 && now >= slot.used + options_.keep_alive;
      if (!idle && !slot.leaving) continue;
      evict(slot, lock);
      return true;
    }
    return false;
  }

  void evict(Slot& slot, Lock& lock) {
    auto generator = std::move(slot.generator);
    slot.generator = nullptr;
    slot.leaving = false;
    lock.unlock();
    generator.reset();  // waits for its thread
    lock.lock();
    models_unloaded.add();
    models_resident.add(-1);
    log::info("model_unloaded", {{"model", slot.name}});
  }

  const ResidencyOptions options_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool stirred_ = false;     // GUARDED_BY(mutex_): somebody came or left
  std::vector<Slot> slots_;  // GUARDED_BY(mutex_), but for names and loads; never grows
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
  if (models.empty()) return Error{Code::invalid, "there is no model to serve"};
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

std::expected<std::unique_ptr<Ticket>, Generator::Refusal> Residents::start(Request request, Sink& sink) {
  // Ends the inner request, then its use of the model.
  class HeldTicket : public Ticket {
   public:
    HeldTicket(std::shared_ptr<State> state, Slot& slot, std::shared_ptr<Waiting> waiting)
        : state_(std::move(state)), slot_(slot), waiting_(std::move(waiting)) {}
    ~HeldTicket() override {
      std::unique_ptr<Ticket> inner;
      {
        const std::lock_guard lock(waiting_->mutex);
        waiting_->dropped = true;
        inner = std::move(waiting_->inner);
      }
      if (inner == nullptr) return;
      inner.reset();
      state_->leave(slot_);
    }

   private:
    const std::shared_ptr<State> state_;
    Slot& slot_;
    const std::shared_ptr<Waiting> waiting_;
  };

  const Result<Slot*> slot = state_->find(request.model);
  if (!slot) return std::unexpected(Refusal{.error = slot.error()});
  const auto waiting = std::make_shared<Waiting>();
  const auto held = std::make_shared<Request>(std::move(request));
  const auto later = [state = state_, slot = *slot, waiting, held, &sink](Loaded loaded) {
    const std::lock_guard lock(waiting->mutex);
    if (!loaded) {
      if (!waiting->dropped) sink.on(Failed{.error = loaded.error()});
      return;
    }
    if (!waiting->dropped) {
      auto ticket = (*loaded)->start(std::move(*held), sink);
      if (ticket) {
        waiting->inner = std::move(*ticket);
        return;
      }
      sink.on(Failed{.error = ticket.error().error, .retry_after = ticket.error().retry_after});
    }
    loaded->reset();
    state->leave(*slot);
  };
  if (const auto generator = state_->enter(**slot, later)) {
    auto ticket = generator->start(std::move(*held), sink);
    if (!ticket) {
      state_->leave(**slot);
      return std::unexpected(std::move(ticket).error());
    }
    waiting->inner = std::move(*ticket);
  }
  return std::make_unique<HeldTicket>(state_, **slot, waiting);
}

std::vector<ModelCard> Residents::models() const { return state_->cards(); }

Result<Tokenized> Residents::tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const {
  return state_->use(model, [&](Generator& generator) { return generator.tokenize(model, prompt, parse_special); });
}

Result<std::string> Residents::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  return state_->use(model, [&](Generator& generator) { return generator.detokenize(model, ids); });
}

Result<std::string> Residents::render(const std::string& model, const Chat& chat) const {
  return state_->use(model, [&](Generator& generator) { return generator.render(model, chat); });
}

Generator::Load Residents::load() const { return state_->load(); }

}  // namespace ashlar::engine
