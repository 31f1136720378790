// What stands behind Residents: the models, who uses them, and the thread on which they come and go.
// residents_names.cc: who is served by which name; residents_thread.cc: what is in memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/residents.h"

namespace ashlar::engine {

using Loaded = Result<Resident>;

struct ResidentWaiter {
  std::function<void(Loaded)> call;
  KeepAlive keep_alive;
};

// served: it takes requests. staged: it takes a served one's place once it has shown that it can. retired: it ends
// those that it has.
enum class Standing { served, staged, retired };

struct ResidentSlot : std::enable_shared_from_this<ResidentSlot> {
  std::string name;              // fixed
  ResidentModel model;           // fixed
  std::vector<ModelCard> known;  // its card and its adapters', as they were when it was last in memory
  Resident resident;             // without a generator: not in memory
  bool loading = false;
  int users = 0;         // tickets and calls; it stays while there are any
  bool leaving = false;  // takes nobody new: another waits for its room
  Clock::time_point used;
  KeepAlive keep_alive;                // as a request asked; nothing: the options'
  std::deque<ResidentWaiter> waiting;  // each becomes a user, unless it gets an error
  Standing standing = Standing::served;
  std::optional<Clock::time_point> ends;  // served and listed no more: retired then

  bool listed() const { return standing == Standing::served && !ends; }
  bool loaded() const { return resident.generator != nullptr; }
  std::vector<ModelCard> cards() const { return loaded() ? resident.generator->models() : known; }
};

// Tickets and calls hold theirs, whatever becomes of it meanwhile.
using SlotPtr = std::shared_ptr<ResidentSlot>;

// Of a model, or of all where none is named.
Generator::Refusal no_reader(const std::string& model);

class Residents::State : public std::enable_shared_from_this<State> {
 public:
  State(std::vector<ResidentModel> models, ResidencyOptions options) : options_(std::move(options)) {
    for (ResidentModel& model : models) slots_.push_back(make_slot(std::move(model), Standing::served));
  }

  void begin() {
    thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
  }
  void end();

  Result<SlotPtr> find(const std::string& name);

  // Whose vectors or scores are asked for.
  std::expected<SlotPtr, Generator::Refusal> find_reader(const std::string& model, bool ranks);

  // Whether an adapter of `owner` cannot be called so, for another's sake.
  bool taken(const std::string& name, const ResidentSlot& owner);

  // Names have changed, and what was changed can be seen.
  void renamed() { ++names_; }
  std::uint64_t names() const { return names_; }

  Status add(ResidentModel model);
  Status put(ResidentModel model, const std::function<Status(const Resident&)>& check);
  Status remove(const std::string& name);

  // The model, if it can be used at once; else nothing, and `later` is called with it
  // on our thread. Either way the caller must leave() it.
  std::optional<Resident> enter(ResidentSlot& slot, KeepAlive keep_alive, std::function<void(Loaded)> later);
  // One use more, by who has entered.
  void stay(ResidentSlot& slot) {
    const std::lock_guard lock(mutex_);
    ++slot.users;
  }
  void leave(ResidentSlot& slot) {
    const std::lock_guard lock(mutex_);
    slot.used = Clock::now();
    if (--slot.users == 0) stir();
  }

  // enter(), waited for.
  Loaded wait_for(ResidentSlot& slot);

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

  Status unload_adapter(const std::string& name);

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

  std::vector<ModelCard> cards();
  void unload_idle();
  Status unload(const std::string& model);
  std::vector<std::string> loaded();
  std::shared_ptr<const CachedPrefixes> cached_prefixes(const std::string& model);
  Load load();

 private:
  using Lock = std::unique_lock<std::mutex>;

  static SlotPtr make_slot(ResidentModel model, Standing standing);
  // Under the lock, as are the next ones. Null: none.
  SlotPtr by_name(const std::string& name) const;
  void retire(ResidentSlot& slot);
  // `fresh`, which is served now and stands last, comes to stand where the one of its name did.
  void take_place(const SlotPtr& fresh);
  // Those whose time has come, and those that ended all that they had. False: none.
  bool retire_some();
  void stir() {
    stirred_ = true;
    changed_.notify_all();
  }

  static void admit(ResidentSlot& slot, KeepAlive keep_alive) {
    ++slot.users;
    if (keep_alive) slot.keep_alive = keep_alive;
  }

  // Those that follow run on our thread; they let go of the lock while a model comes or goes, and while waiters are
  // called.
  void work(const std::stop_token& stop);
  // When an idle model leaves because nobody asks for it.
  std::optional<Clock::time_point> end_of(const ResidentSlot& slot) const;
  // When to look again if nobody calls.
  Clock::time_point next_look() const;
  // Gives one waiting model to those who wait for it. False: nobody waits, or for
  // room only.
  bool serve_one(Lock& lock);
  Status bring(ResidentSlot& slot, Lock& lock);
  void hand_out(ResidentSlot& slot, Lock& lock);
  // Where memory was short and another can go, it goes and the load is tried again.
  bool refuse(ResidentSlot& slot, const Error& error, Lock& lock);
  // True: `slot` may be loaded now.
  bool make_room(const ResidentSlot& slot, Lock& lock);
  // Of those that nobody uses; null: all are in use.
  SlotPtr least_used() const;
  bool expire_one(Lock& lock);
  void evict(ResidentSlot& slot, Lock& lock);

  const ResidencyOptions options_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool stirred_ = false;        // GUARDED_BY(mutex_): somebody came or left
  std::vector<SlotPtr> slots_;  // GUARDED_BY(mutex_), as are they, but for names and loads
  std::atomic<std::uint64_t> names_ = 1;
  std::jthread thread_;
};

}  // namespace ashlar::engine
