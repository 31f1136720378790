// Looks at something again and again, on a thread of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace ashlar::cli {

class Watch {
 public:
  // `look` runs once in `every`, never two at once; not before the first has passed.
  Watch(std::chrono::milliseconds every, std::function<void()> look)
      : thread_([every, look = std::move(look)](const std::stop_token& stop) {
          std::mutex still;
          std::condition_variable_any never;
          std::unique_lock lock(still);
          while (!never.wait_for(lock, stop, every, [&] { return stop.stop_requested(); })) look();
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace ashlar::cli
