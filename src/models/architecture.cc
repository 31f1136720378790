#include "models/architecture.h"

#include <algorithm>

namespace ashlar::models {
namespace {

// A function's static, for registration runs before main in any order.
std::vector<Architecture>& registry() {
  static std::vector<Architecture> architectures;
  return architectures;
}

}  // namespace

Register::Register(Architecture architecture) { registry().push_back(architecture); }

const Architecture* find_architecture(std::string_view name) {
  const auto found = std::ranges::find(registry(), name, &Architecture::name);
  return found == registry().end() ? nullptr : &*found;
}

std::vector<std::string_view> architecture_names() {
  std::vector<std::string_view> names;
  for (const Architecture& architecture : registry()) names.push_back(architecture.name);
  std::ranges::sort(names);
  return names;
}

}  // namespace ashlar::models
