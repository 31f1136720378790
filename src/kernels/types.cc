#include "kernels/types.h"

#include <algorithm>
#include <iterator>

namespace ashlar::kernels {
namespace {

// Block sizes of the first ones as published with the GGUF format, of the others as in blocks.h.
constexpr TypeInfo kTypes[] = {
    {Type::f32, "F32", 1, 4},         {Type::f16, "F16", 1, 2},           {Type::q4_0, "Q4_0", 32, 18},
    {Type::q4_1, "Q4_1", 32, 20},     {Type::q5_0, "Q5_0", 32, 22},       {Type::q5_1, "Q5_1", 32, 24},
    {Type::q8_0, "Q8_0", 32, 34},     {Type::q2_k, "Q2_K", 256, 84},      {Type::q3_k, "Q3_K", 256, 110},
    {Type::q4_k, "Q4_K", 256, 144},   {Type::q5_k, "Q5_K", 256, 176},     {Type::q6_k, "Q6_K", 256, 210},
    {Type::iq4_nl, "IQ4_NL", 32, 18}, {Type::iq4_xs, "IQ4_XS", 256, 136}, {Type::bf16, "BF16", 1, 2},
    {Type::mxfp4, "MXFP4", 32, 17},   {Type::u4z, "U4Z", 64, 36},         {Type::u8z, "U8Z", 64, 68},
    {Type::i8, "I8", 64, 68},         {Type::f8_e4m3, "F8_E4M3", 64, 68}, {Type::f8_e5m2, "F8_E5M2", 64, 68},
    {Type::nf4, "NF4", 64, 36},
};

constexpr std::uint32_t kFirstForeign = 1000;

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

}  // namespace

const TypeInfo* type_info(std::uint32_t type) {
  const auto* info = std::ranges::find(kTypes, static_cast<Type>(type), &TypeInfo::type);
  return type >= kFirstForeign || info == std::end(kTypes) ? nullptr : info;
}

const TypeInfo& type_info(Type type) { return *std::ranges::find(kTypes, type, &TypeInfo::type); }

const TypeInfo* find_type(std::string_view name) {
  for (const TypeInfo& info : kTypes) {
    bool same = info.name.size() == name.size();
    for (std::size_t i = 0; same && i < name.size(); ++i) same = upper(name[i]) == info.name[i];
    if (same) return &info;
  }
  return nullptr;
}

}  // namespace ashlar::kernels
