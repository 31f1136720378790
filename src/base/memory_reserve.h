// Memory for when there is none: destructors and the ways of errors allocate, some libraries' without bearing that it
// fails.
#pragma once

namespace ashlar {

// Holds address space back, which `operator new` gets before it throws; or takes it back where it was spent and there
// is memory again. Any thread; to be called now and then.
void keep_memory_reserve();

}  // namespace ashlar
