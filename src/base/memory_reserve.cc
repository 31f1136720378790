#include "base/memory_reserve.h"

#include <cstdlib>
#include <mutex>
#include <new>

namespace ashlar {
namespace {

constexpr std::size_t kReserve = 8 << 20;  // never touched, so that it costs no page

std::mutex mutex;
void* reserve = nullptr;  // GUARDED_BY(mutex)

// `operator new` tries again after it. What is larger than the reserve fails all the same, and leaves it whole.
void spend() {
  const std::lock_guard lock(mutex);
  if (reserve == nullptr) {
    reserve = std::malloc(kReserve);
    throw std::bad_alloc();
  }
  std::free(reserve);
  reserve = nullptr;
}

}  // namespace

void keep_memory_reserve() {
  const std::lock_guard lock(mutex);
  if (reserve == nullptr) reserve = std::malloc(kReserve);
  std::set_new_handler(spend);
}

}  // namespace ashlar
