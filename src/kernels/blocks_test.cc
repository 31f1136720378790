#include "kernels/blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/float8.h"

namespace ashlar::kernels {
namespace {

constexpr Type kAll[] = {Type::f32,     Type::f16,     Type::bf16,   Type::q8_0, Type::q4_0, Type::q4_1,
                         Type::q5_0,    Type::q5_1,    Type::q2_k,   Type::q3_k, Type::q4_k, Type::q5_k,
                         Type::q6_k,    Type::iq4_nl,  Type::iq4_xs, Type::u4z,  Type::u8z,  Type::i8,
                         Type::f8_e4m3, Type::f8_e5m2, Type::nf4,    Type::mxfp4};

std::vector<std::byte> bytes(std::initializer_list<int> list, std::size_t size) {
  std::vector<std::byte> out(size);
  std::transform(list.begin(), list.end(), out.begin(), [](int v) { return static_cast<std::byte>(v); });
  return out;
}

std::vector<float> dequantize(Type type, const std::vector<std::byte>& row, int n) {
  std::vector<float> out(static_cast<std::size_t>(n));
  dequantize_row(type, row.data(), out.data(), n);
  return out;
}

TEST(Blocks, QuantizedRowsComeBackClose) {
  // The greatest error that the type's steps allow for values in [-1, 1], with room for rounded scales.
  const auto allowed = [](Type type) {
    switch (type) {
      case Type::f32:
        return 0.0f;
      case Type::f16:
        return 0.0005f;
      case Type::bf16:
      case Type::q8_0:
        return 0.005f;
      case Type::u8z:
      case Type::i8:
        return 0.005f;
      case Type::q6_k:
        return 0.045f;
      case Type::f8_e4m3:
        return 0.07f;
      case Type::f8_e5m2:
        return 0.13f;
      case Type::q5_0:
      case Type::q5_1:
      case Type::q5_k:
        return 0.08f;
      case Type::q3_k:
      case Type::mxfp4:  // values up to 6 under a power of two
        return 0.3f;
      case Type::q2_k:
        return 0.45f;
      default:
        return 0.16f;
    }
  };
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> x(1024);
  for (float& v : x) v = uniform(random);
  for (const Type type : kAll) {
    std::vector<std::byte> row(row_bytes(type, 1024));
    quantize_row(type, x.data(), row.data(), 1024);
    const std::vector<float> back = dequantize(type, row, 1024);
    float worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(back[i] - x[i]));
    EXPECT_LE(worst, allowed(type)) << type_info(type).name;
    // What has been rounded once stays: quantizing the result gives it again, nearly.
    quantize_row(type, back.data(), row.data(), 1024);
    const std::vector<float> again = dequantize(type, row, 1024);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(again[i], back[i], allowed(type)) << type_info(type).name;
  }
}

TEST(Blocks, HalfFloatsRoundToNearestEven) {
  EXPECT_EQ(f32_to_f16(1.0f), 0x3c00);
  EXPECT_EQ(f32_to_f16(-2.0f), 0xc000);
  EXPECT_EQ(f32_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(65519.9f), 0x7bff);
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3c00);  // a tie goes to even
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);
  EXPECT_EQ(f32_to_f16(0x1p-24f), 0x0001);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
  for (int h = 0; h < 0x10000; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    if ((half & 0x7fff) > 0x7c00) continue;  // not a number
    ASSERT_EQ(f32_to_f16(f16_to_f32(half)), half);
  }
}

TEST(Blocks, EightBitFloats) {
  EXPECT_EQ(f8_e4m3_to_f32(0x38), 1.0f);
  EXPECT_EQ(f8_e4m3_to_f32(0xb9), -1.125f);
  EXPECT_EQ(f8_e4m3_to_f32(0x7e), 448.0f);
  EXPECT_EQ(f8_e4m3_to_f32(0x01), 0x1p-9f);
  EXPECT_EQ(f8_e4m3_to_f32(0x87), -7 * 0x1p-9f);
  EXPECT_EQ(f8_e4m3_to_f32(0x08), 0x1p-6f);
  EXPECT_TRUE(std::isnan(f8_e4m3_to_f32(0xff)));
  EXPECT_EQ(f8_e5m2_to_f32(0x7b), 57344.0f);
  EXPECT_EQ(f8_e5m2_to_f32(0x01), 0x1p-16f);
  EXPECT_TRUE(std::isinf(f8_e5m2_to_f32(0x7c)));
  EXPECT_EQ(f32_to_f8_e4m3(1e9f), 0x7e);
  EXPECT_EQ(f32_to_f8_e4m3(-464.0f), 0xfe);
  EXPECT_EQ(f32_to_f8_e4m3(1.0625f), 0x38);  // a tie goes to even
  EXPECT_EQ(f32_to_f8_e4m3(1.1875f), 0x3a);
  EXPECT_EQ(f32_to_f8_e4m3(0x1p-10f), 0x00);
  EXPECT_EQ(f32_to_f8_e4m3(3 * 0x1p-10f), 0x02);
  EXPECT_EQ(f32_to_f8_e5m2(1e9f), 0x7b);
  for (int i = 0; i < 256; ++i) {
    const auto code = static_cast<std::uint8_t>(i);
    if (f8_e4m3_is_finite(code)) ASSERT_EQ(f32_to_f8_e4m3(f8_e4m3_to_f32(code)), code);
    if (f8_e5m2_is_finite(code)) ASSERT_EQ(f32_to_f8_e5m2(f8_e5m2_to_f32(code)), code);
  }
}

TEST(Blocks, U4Z) {
  auto row = bytes({0x00, 0x38, 0x0b, 0x00, 0xf0, 0x19}, 36);  // d = 0.5, z = 11
  const auto v = dequantize(Type::u4z, row, 64);
  EXPECT_EQ(v[0], -5.5f);
  EXPECT_EQ(v[32], 2.0f);
  EXPECT_EQ(v[1], -1.0f);
  EXPECT_EQ(v[33], -5.0f);
}

TEST(Blocks, U8Z) {
  auto row = bytes({0x00, 0x38, 0xff, 0x00, 0xff, 0x00}, 68);  // d = 0.5, z = 255
  const auto v = dequantize(Type::u8z, row, 64);
  EXPECT_EQ(v[0], 0.0f);
  EXPECT_EQ(v[1], -127.5f);
}

TEST(Blocks, WideScales) {
  auto row = bytes({0x01, 0x00, 0x80, 0x3f, 0x80, 0x7f}, 68);  // d = 1 + 2^-23
  EXPECT_EQ(dequantize(Type::i8, row, 64)[0], -128 * (1 + 0x1p-23f));
  EXPECT_EQ(dequantize(Type::i8, row, 64)[1], 127 * (1 + 0x1p-23f));
  row[4] = std::byte{0xb8};
  EXPECT_EQ(dequantize(Type::f8_e4m3, row, 64)[0], -(1 + 0x1p-23f));
  auto nf4 = bytes({0x00, 0x00, 0x00, 0x40, 0xf0, 0x17}, 36);  // d = 2
  EXPECT_EQ(dequantize(Type::nf4, nf4, 64)[0], -2.0f);
  EXPECT_EQ(dequantize(Type::nf4, nf4, 64)[32], 2.0f);
  EXPECT_EQ(dequantize(Type::nf4, nf4, 64)[1], 0.0f);
  EXPECT_EQ(dequantize(Type::nf4, nf4, 64)[33], 2 * -0.6961928009986877f);
}

TEST(Blocks, NoFileHasTheTypesOfOtherCheckpoints) {
  for (const Type type : {Type::u4z, Type::nf4})
    EXPECT_EQ(type_info(static_cast<std::uint32_t>(type)), nullptr) << type_info(type).name;
}

TEST(Blocks, Mxfp4) {
  // 2^3; -6 low and 6 high; 3 and -1; 0 and 1 (a half).
  auto block = bytes({127 + 3, 0x7f, 0xa5, 0x10}, 17);
  const auto v = dequantize(Type::mxfp4, block, 32);
  const std::vector<std::pair<std::size_t, float>> expected{{0, -48.0f}, {1, 24.0f},  {2, 0.0f},
                                                            {16, 48.0f}, {17, -8.0f}, {18, 4.0f}};
  for (const auto& [at, value] : expected) EXPECT_EQ(v[at], value);
  for (const int exponent : {0, 255}) {  // beyond the range of scales
    block[0] = static_cast<std::byte>(exponent);
    for (const float value : dequantize(Type::mxfp4, block, 32)) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(Blocks, Q4_0) {
  auto row = bytes({0x00, 0x38, 0xf0, 0x19}, 18);  // d = 0.5; byte 0: codes 0 and 15; byte 1: 9 and 1
  const auto v = dequantize(Type::q4_0, row, 32);
  EXPECT_EQ(v[0], -4.0f);
  EXPECT_EQ(v[16], 3.5f);
  EXPECT_EQ(v[1], 0.5f);
  EXPECT_EQ(v[17], -3.5f);
  EXPECT_EQ(v[31], -4.0f);
}

TEST(Blocks, Q4_1) {
  auto row = bytes({0x00, 0x38, 0x00, 0xbc, 0x52}, 20);  // d = 0.5, m = -1
  const auto v = dequantize(Type::q4_1, row, 32);
  EXPECT_EQ(v[0], 0.0f);
  EXPECT_EQ(v[16], 1.5f);
  EXPECT_EQ(v[1], -1.0f);
}

TEST(Blocks, Q5_0) {
  auto row = bytes({0x00, 0x3c, 0x01, 0x00, 0x02, 0x80, 0x21, 0x04}, 22);  // d = 1; high bits 0, 17, 31
  const auto v = dequantize(Type::q5_0, row, 32);
  EXPECT_EQ(v[0], 1.0f);     // 1 + 16 - 16
  EXPECT_EQ(v[16], -14.0f);  // 2 - 16
  EXPECT_EQ(v[1], -12.0f);   // 4 - 16
  EXPECT_EQ(v[17], 0.0f);    // 0 + 16 - 16
  EXPECT_EQ(v[31], 0.0f);
}

TEST(Blocks, Q5_1) {
  auto row = bytes({0x00, 0x3c, 0x00, 0x40, 0x01, 0x00, 0x00, 0x00, 0x21}, 24);  // d = 1, m = 2
  const auto v = dequantize(Type::q5_1, row, 32);
  EXPECT_EQ(v[0], 19.0f);
  EXPECT_EQ(v[16], 4.0f);
  EXPECT_EQ(v[2], 2.0f);
}

TEST(Blocks, Q8_0) {
  auto row = bytes({0x00, 0x40, 0x80, 0x7f, 0xff}, 34);  // d = 2
  const auto v = dequantize(Type::q8_0, row, 32);
  EXPECT_EQ(v[0], -256.0f);
  EXPECT_EQ(v[1], 254.0f);
  EXPECT_EQ(v[2], -2.0f);
  EXPECT_EQ(v[3], 0.0f);
}

TEST(Blocks, Iq4Nl) {
  auto row = bytes({0x00, 0x3c, 0xf0, 0x87}, 18);
  const auto v = dequantize(Type::iq4_nl, row, 32);
  EXPECT_EQ(v[0], -127.0f);
  EXPECT_EQ(v[16], 113.0f);
  EXPECT_EQ(v[1], -10.0f);
  EXPECT_EQ(v[17], 1.0f);
}

TEST(Blocks, Iq4Xs) {
  // d = 1; scales_h: sub-block 0 has 2 (32 + low), sub-block 7 has 3; scales_l: 0 -> 5, 7 -> 15
  auto row = bytes({0x00, 0x3c, 0x02, 0xc0, 0x05, 0x00, 0x00, 0xf0}, 136);
  row[8] = std::byte{0x0f};        // element 0: code 15, element 16: code 0
  row[8 + 112] = std::byte{0x98};  // of sub-block 7: element 224: code 8, element 240: code 9
  const auto v = dequantize(Type::iq4_xs, row, 256);
  EXPECT_EQ(v[0], 5.0f * 113);  // 37 - 32
  EXPECT_EQ(v[16], 5.0f * -127);
  EXPECT_EQ(v[32], -32.0f * -127);  // scale 0 - 32
  EXPECT_EQ(v[224], 31.0f * 1);
  EXPECT_EQ(v[240], 31.0f * 13);
}

TEST(Blocks, Q2_K) {
  std::vector<std::byte> row(84);
  row[0] = std::byte{0x23};                    // sub-block 0: scale 3, min 2
  row[9] = std::byte{0x14};                    // sub-block 9 (elements 144..159): scale 4, min 1
  row[16] = std::byte{0x02};                   // element 0: code 2
  row[16 + 32 + 16] = std::byte{0x0c | 0x03};  // elements 144: 3 (low bits), 144 + 32: 3
  row[81] = std::byte{0x3c};                   // d = 1
  row[83] = std::byte{0x38};                   // dmin = 0.5
  const auto v = dequantize(Type::q2_k, row, 256);
  EXPECT_EQ(v[0], 3 * 2 - 0.5f * 2);
  EXPECT_EQ(v[1], -1.0f);
  EXPECT_EQ(v[144], 4 * 3 - 0.5f);
  EXPECT_EQ(v[145], -0.5f);
  EXPECT_EQ(v[176], 0.0f);  // scale and min of sub-block 11 are zero
}

TEST(Blocks, Q3_K) {
  std::vector<std::byte> row(110);
  row[0] = std::byte{0x01 | 0x80};  // high bit of elements 0 and 224
  row[32] = std::byte{0x03};        // element 0: low bits 3
  row[32 + 32] = std::byte{0x80};   // element 224 (second half, last quarter): low bits 2
  row[96] = std::byte{0x01};        // scale 0: low nibble 1
  row[96 + 8] = std::byte{0x02};    // scale 0: high bits 2 -> 33; scales 4, 8, 12: high bits 0
  row[96 + 6] = std::byte{0xf0};    // scale 14: low nibble 15
  row[96 + 10] = std::byte{0xc0};   // scale 14 (14 / 4 = 3): high bits 3 -> 63
  row[109] = std::byte{0x3c};
  const auto v = dequantize(Type::q3_k, row, 256);
  EXPECT_EQ(v[0], 1.0f * 3);  // (33 - 32) * (7 - 4)
  EXPECT_EQ(v[1], 1.0f * -4);
  EXPECT_EQ(v[16], -32.0f * -4);  // scale 1 is 0 - 32
  EXPECT_EQ(v[224], 31.0f * 2);   // (63 - 32) * (6 - 4)
}

TEST(Blocks, Q4_K) {
  std::vector<std::byte> row(144);
  row[1] = std::byte{0x3c};             // d = 1
  row[3] = std::byte{0x38};             // dmin = 0.5
  row[4 + 0] = std::byte{0x05 | 0x40};  // scale 0 = 5; scale 4 high bits 1
  row[4 + 4] = std::byte{0x06 | 0x80};  // min 0 = 6; min 4 high bits 2
  row[4 + 8] = std::byte{0x32};         // scale 4 low 2 -> 18; min 4 low 3 -> 35
  row[16] = std::byte{0x7a};            // element 0: 10; element 32: 7
  row[16 + 64] = std::byte{0x09};       // element 128 (sub-block 4): 9
  const auto v = dequantize(Type::q4_k, row, 256);
  EXPECT_EQ(v[0], 5 * 10 - 3.0f);
  EXPECT_EQ(v[32], 0.0f);  // sub-block 1 has no scale and no min
  EXPECT_EQ(v[128], 18 * 9 - 17.5f);
  EXPECT_EQ(v[129], -17.5f);
}

TEST(Blocks, Q5_K) {
  std::vector<std::byte> row(176);
  row[1] = std::byte{0x3c};
  row[3] = std::byte{0x3c};
  row[4 + 1] = std::byte{0x02};   // scale 1 = 2
  row[4 + 5] = std::byte{0x01};   // min 1 = 1
  row[16 + 3] = std::byte{0x02};  // high bit of element 3 of sub-block 1
  row[48 + 3] = std::byte{0x40};  // element 35: low nibble 4
  const auto v = dequantize(Type::q5_k, row, 256);
  EXPECT_EQ(v[35], 2 * 20 - 1.0f);
  EXPECT_EQ(v[36], -1.0f);
  EXPECT_EQ(v[3], 0.0f);
}

TEST(Blocks, Q6_K) {
  std::vector<std::byte> row(210);
  row[0] = std::byte{0x5f};         // element 0: low 15; element 64: low 5
  row[128] = std::byte{0x23};       // element 0: high 3; element 64: high 2
  row[192] = std::byte{0xff};       // scale of sub-block 0: -1
  row[192 + 4] = std::byte{0x03};   // of sub-block 4: 3
  row[192 + 15] = std::byte{0x80};  // of sub-block 15: -128
  row[209] = std::byte{0x3c};
  const auto v = dequantize(Type::q6_k, row, 256);
  EXPECT_EQ(v[0], -1.0f * 31);
  EXPECT_EQ(v[1], -1.0f * -32);
  EXPECT_EQ(v[64], 3.0f * 5);  // 5 + 32 - 32
  EXPECT_EQ(v[255], -128.0f * -32);
}

}  // namespace
}  // namespace ashlar::kernels
