// Sleeping until a word changes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace ashlar {

using FutexWord = std::atomic<std::uint32_t>;

// Sleeps while the word holds `value`, until it is woken or the time is over;
// may also return for no reason. timeout 0: no end.
void futex_wait(FutexWord& word, std::uint32_t value, std::chrono::nanoseconds timeout = {});
void futex_wake_all(FutexWord& word);

}  // namespace ashlar
