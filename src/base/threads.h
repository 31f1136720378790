// A fixed team of threads for arithmetic.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace ashlar {

// A borrowed callable: no allocation, valid only during the call it is passed to.
template <class Signature>
class FunctionRef;

template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
  FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

// Runs loops on `size()` threads: the caller and size()-1 helpers. Helpers spin
// for some hundred microseconds after a loop, then sleep. One caller at a time.
//
// Where a foreign process takes a core from one of the threads in the middle of
// an index, the others fetch that thread to a core that they leave to it, so that
// a loop waits for it a fraction of a millisecond and not the several that the
// kernel gives to the foreign process. For that the caller's own core may change;
// the set of cores that it is confined to does not.
class ThreadPool {
 public:
  // threads < 1: one for each core that this process may use. pin: where there
  // is a thread for each core, each helper gets a core of its own.
  explicit ThreadPool(int threads = 0, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // fn(index, worker) once for each index in [0, count), handed out in order one
  // at a time, so that a thread that was held up does not hold up the others.
  // worker is in [0, size()). Returns when all are done.
  void for_each(int count, FunctionRef<void(int index, int worker)> fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// How many cores this process may use (its affinity mask).
int available_cores();

// What each thread of ours begins with: its name as ps and debuggers show it, at most 15 characters, and a stack for
// handlers of signals, so that they run when its own has overflowed, too.
void begin_thread(const char* name);

}  // namespace ashlar
