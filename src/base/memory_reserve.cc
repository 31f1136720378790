#include "base/memory_reserve.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>

namespace ashlar {
namespace {

constexpr std::size_t kReserve = 8 << 20;  // never touched, so that it costs no page
constexpr std::size_t kSmall = 64 << 10;   // a request's own pieces are small; what it asks for too much is not

std::mutex mutex;
void* reserve = nullptr;  // GUARDED_BY(mutex)

void* spend(std::size_t size) {
  if (size > kSmall) return nullptr;
  const std::lock_guard lock(mutex);
  std::free(reserve);
  void* const taken = std::malloc(size);
  reserve = std::malloc(kReserve);  // what is left of it, if that is enough
  return taken;
}

}  // namespace

void keep_memory_reserve() {
  const std::lock_guard lock(mutex);
  if (reserve == nullptr) reserve = std::malloc(kReserve);
}

}  // namespace ashlar

void* operator new(std::size_t size) {
  size = std::max<std::size_t>(size, 1);
  if (void* const taken = std::malloc(size)) return taken;
  if (void* const taken = ashlar::spend(size)) return taken;
  throw std::bad_alloc();
}

// Asio's, for what it hands from thread to thread.
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  void* taken = nullptr;
  if (::posix_memalign(&taken, std::max(alignment, sizeof taken), size) == 0) return taken;
  return alignment <= alignof(std::max_align_t) ? ashlar::spend(size) : nullptr;
}

void operator delete(void* taken) noexcept { std::free(taken); }
void operator delete(void* taken, std::size_t) noexcept { std::free(taken); }
