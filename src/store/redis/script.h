// What Redis runs for us, atomically: one script for all that counters do.
#pragma once

#include <string>
#include <string_view>

namespace ashlar::store {

// KEYS: clock, epoch, open reservations, the reservation, then one for each limit.
// ARGV: what to do, the time (steady, UTC; empty: the server's), the reservation's id, then as the script says.
extern const std::string_view kCountersScript;
// Its name: the SHA-1 of its text, in hexadecimal.
const std::string& counters_script_sha();

}  // namespace ashlar::store
