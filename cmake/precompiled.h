// What nearly every source takes in and none of it ours: read and instantiated
// once a build instead of once a file (ASHLAR_PRECOMPILE). Sources still name
// all that they use: the preset `dev` builds without this.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

// base/fmt.cc has it.
extern template void fmt::detail::vformat_to(buffer<char>&, fmt::basic_string_view<char>,
                                             fmt::basic_format_args<fmt::buffer_context<char>>, locale_ref);
