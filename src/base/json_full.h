// base/json.h with the library itself: for sources, never for headers (1.6 s a file).
#pragma once

#include <nlohmann/json.hpp>

#include "base/json.h"
