// Memory for when there is none: destructors and the ways of errors allocate, some libraries' without bearing that it
// fails. With this file in a program `operator new` gives small pieces out of a reserve then, and throws for large ones.
#pragma once

namespace ashlar {

// Holds the reserve back, or takes it back where it was spent and there is memory again. Any thread; to be called now
// and then.
void keep_memory_reserve();

}  // namespace ashlar
