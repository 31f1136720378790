#include "models/architecture.h"

#include <algorithm>

namespace ashlar::models {
namespace {

// A function's static, for registration runs before main in any order.
std::vector<Architecture>& registry() {
  static std::vector<Architecture> architectures;
  return architectures;
}

std::vector<EncoderArchitecture>& encoders() {
  static std::vector<EncoderArchitecture> architectures;
  return architectures;
}

template <class T>
const T* find(const std::vector<T>& architectures, std::string_view name) {
  const auto found = std::ranges::find(architectures, name, &T::name);
  return found == architectures.end() ? nullptr : &*found;
}

}  // namespace

Register::Register(Architecture architecture) { registry().push_back(architecture); }
RegisterEncoder::RegisterEncoder(EncoderArchitecture architecture) { encoders().push_back(architecture); }

const Architecture* find_architecture(std::string_view name) { return find(registry(), name); }
const EncoderArchitecture* find_encoder(std::string_view name) { return find(encoders(), name); }

std::vector<std::string_view> architecture_names() {
  std::vector<std::string_view> names;
  for (const Architecture& architecture : registry()) names.push_back(architecture.name);
  for (const EncoderArchitecture& architecture : encoders()) names.push_back(architecture.name);
  std::ranges::sort(names);
  return names;
}

}  // namespace ashlar::models
