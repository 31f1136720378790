#include "store/pq.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace ashlar::store {
namespace {

Result<Pq> look_for_pq() {
  void* const library = ::dlopen("libpq.so.5", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return Error{Code::unsupported,
                 fmt::format("PostgreSQL needs its client library on this machine (Debian: apt install libpq5): {}",
                             ::dlerror())};
  Pq found;
#define ASHLAR_PQ_FIND(name)                                                    \
  found.name = reinterpret_cast<decltype(found.name)>(::dlsym(library, #name)); \
  if (found.name == nullptr)                                                    \
    return Error{Code::unsupported, "PostgreSQL: libpq here lacks " #name "; version 14 or newer is needed"};
  ASHLAR_PQ_FUNCTIONS(ASHLAR_PQ_FIND)
#undef ASHLAR_PQ_FIND
  return found;
}

}  // namespace

Result<const Pq*> load_pq() {
  static const Result<Pq> loaded = look_for_pq();
  if (!loaded) return loaded.error();
  return &*loaded;
}

}  // namespace ashlar::store
