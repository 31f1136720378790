// How weights are stored. Numbers below 1000 are those of the GGUF file format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ashlar::kernels {

enum class Type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
  mxfp4 = 39,
  // What checkpoints of other formats hold, exactly. No file has these numbers.
  u4z = 1000,
  u8z = 1001,
  i8 = 1002,
  f8_e4m3 = 1003,
  f8_e5m2 = 1004,
  nf4 = 1005,
};

struct TypeInfo {
  Type type;
  std::string_view name;  // "Q4_K"
  int block;              // elements in one block; a row is whole blocks
  int bytes;              // of one block
};

// By its number in a GGUF file. nullptr: a type that this build does not read.
const TypeInfo* type_info(std::uint32_t type);
const TypeInfo& type_info(Type type);

// By name, in either case ("q4_k", "Q8_0"). nullptr: unknown.
const TypeInfo* find_type(std::string_view name);

inline std::size_t row_bytes(Type type, std::int64_t columns) {
  const TypeInfo& info = type_info(type);
  return static_cast<std::size_t>(columns / info.block) * static_cast<std::size_t>(info.bytes);
}

}  // namespace ashlar::kernels
