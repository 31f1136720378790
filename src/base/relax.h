// What a thread does between two looks at what another is about to change.
#pragma once

namespace ashlar {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace ashlar
