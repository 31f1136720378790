#include "models/formats/quantized_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <numeric>

#include "kernels/blocks.h"
#include "models/formats/quantized_folder_test.h"

namespace ashlar::models {
namespace {

using kernels::Type;
using packing::Codes;
using packing::Entry;
using testing::HasSubstr;

const std::string kModule = "model.layers.0.mlp.up_proj";

std::string config_of(const std::string& members) { return R"({"quantization_config":{)" + members + "}}"; }

class QuantizedCheckpointTest : public testing::Test {
 protected:
  struct Found {
    std::optional<safetensors::Checkpoint> weights;
    QuantizedCheckpoint checkpoint;
    std::string error;
  };

  Found read(const std::vector<Entry>& entries, const std::string& members, RowsFor whom = RowsFor::products) {
    folder.write_weights(entries);
    folder.write("config.json", config_of(members));
    Found found;
    auto weights = safetensors::Checkpoint::open(folder.path());
    EXPECT_TRUE(weights.has_value()) << weights.error().message;
    found.weights = std::move(*weights);
    const auto config = open_quantization_config(folder.path());
    if (!config) {
      found.error = config.error().message;
      return found;
    }
    auto checkpoint = read_quantized_checkpoint(*found.weights, **config, whom);
    if (checkpoint)
      found.checkpoint = std::move(*checkpoint);
    else
      found.error = checkpoint.error().message;
    return found;
  }

  std::string refusal(const std::vector<Entry>& entries, const std::string& members) {
    Found found = read(entries, members);
    for (const QuantizedMatrix& matrix : found.checkpoint.matrices) {
      std::vector<std::byte> room(kernels::row_bytes(matrix.type, matrix.columns) *
                                  static_cast<std::size_t>(matrix.rows));
      if (const auto made = matrix.make(room); !made && found.error.empty()) found.error = made.error().message;
    }
    return found.error;
  }

  // The one matrix has exactly these values (or those that a rounding of `bits` bits leaves), under this type.
  void expect(const std::vector<Entry>& entries, const std::string& members, const std::vector<double>& values,
              Type type, RowsFor whom = RowsFor::products) {
    const Found found = read(entries, members, whom);
    ASSERT_EQ(found.error, "");
    ASSERT_EQ(found.checkpoint.matrices.size(), 1u);
    EXPECT_EQ(found.checkpoint.plain.size(), 0u);
    const QuantizedMatrix& m = found.checkpoint.matrices[0];
    EXPECT_EQ(m.name, kModule + ".weight");
    EXPECT_EQ(kernels::type_info(m.type).name, kernels::type_info(type).name);
    ASSERT_EQ(static_cast<std::size_t>(m.rows * m.columns), values.size());
    const auto columns = static_cast<std::size_t>(m.columns);
    std::vector<std::byte> rows(kernels::row_bytes(m.type, m.columns) * static_cast<std::size_t>(m.rows));
    ASSERT_TRUE(m.make(rows).has_value());
    std::vector<float> row(columns);
    const double slack = m.type == Type::f16 ? 0x1p-11 : 0, least = m.type == Type::f16 ? 0x1p-25 : 0;
    for (std::size_t r = 0; r < static_cast<std::size_t>(m.rows); ++r) {
      kernels::dequantize_row(m.type, rows.data() + rows.size() / static_cast<std::size_t>(m.rows) * r, row.data(),
                              m.columns);
      for (std::size_t c = 0; c < columns; ++c) {
        const double expected = values[r * columns + (m.order.empty() ? c : static_cast<std::size_t>(m.order[c]))];
        ASSERT_NEAR(row[c], static_cast<float>(expected), slack * std::abs(expected) + least) << r << " " << c;
      }
    }
  }

  packing::Folder folder{"quantized"};
};

std::string gptq_members(int bits, int group, bool by_activation, const char* format) {
  return R"("quant_method":"gptq","bits":)" + std::to_string(bits) + R"(,"group_size":)" + std::to_string(group) +
         R"(,"desc_act":)" + (by_activation ? "true" : "false") + R"(,"checkpoint_format":")" + format + "\"";
}

TEST_F(QuantizedCheckpointTest, GptqOfAllBitsBothConventionsAndGroups) {
  for (const bool v2 : {false, true})
    for (const int bits : {2, 3, 4, 8})
      for (const bool symmetric : {true, false})
        for (const int group : {-1, 32, 64, 128}) {
          SCOPED_TRACE(testing::Message() << v2 << " " << bits << " " << symmetric << " " << group);
          const Codes w = packing::random_codes(32, 256, group, bits, symmetric, static_cast<unsigned>(bits + group));
          const auto members = gptq_members(bits, group, false, v2 ? "gptq_v2" : "gptq");
          const bool small = group == 32;
          Type ours = bits < 4 || symmetric ? Type::q4_0 : small ? Type::q5_0 : Type::u4z;
          Type theirs = bits < 4 || symmetric ? Type::q4_0 : Type::q5_0;
          if (bits == 8) {
            ours = symmetric ? Type::q8_0 : small ? Type::f16 : Type::u8z;
            theirs = symmetric ? Type::q8_0 : Type::f16;
          }
          expect(packing::gptq(kModule, w, bits, v2, group != 64), members, w.values(), ours);
          expect(packing::gptq(kModule, w, bits, v2), members, w.values(), theirs, RowsFor::gguf);
        }
}

// Columns that were quantized in the order of their activations: each has its group, in any order.
TEST_F(QuantizedCheckpointTest, GptqBringsScatteredGroupsTogether) {
  for (const int group : {32, 128}) {
    Codes w = packing::random_codes(32, 256, group, 4, false, 5);
    std::shuffle(w.group.begin(), w.group.end(), std::mt19937(7));
    const auto entries = packing::gptq(kModule, w, 4, false);
    const auto members = gptq_members(4, group, true, "gptq");
    expect(entries, members, w.values(), group == 32 ? Type::q5_0 : Type::u4z);
    expect(entries, members, w.values(), Type::f16, RowsFor::gguf);
    const Found found = read(entries, members);
    const auto& order = found.checkpoint.matrices[0].order;
    ASSERT_EQ(order.size(), 256u);
    EXPECT_THAT(order, testing::IsSupersetOf({0, 1, 128, 255}));
  }
  // Groups of unequal size cannot be blocks.
  Codes w = packing::random_codes(32, 256, 64, 4, true, 5);
  w.group[3] = 2;
  expect(packing::gptq(kModule, w, 4, false), gptq_members(4, 64, true, "gptq"), w.values(), Type::f16);
}

TEST_F(QuantizedCheckpointTest, GptqColumnsThatAreNoBlocksBecomeFloats) {
  const Codes w = packing::random_codes(32, 80, 16, 4, false, 5);
  expect(packing::gptq(kModule, w, 4, false), gptq_members(4, 16, false, "gptq"), w.values(), Type::f16);
}

TEST_F(QuantizedCheckpointTest, ModulesOfGptqMayDiffer) {
  const Codes w = packing::random_codes(32, 256, 64, 8, true, 5);
  expect(packing::gptq(kModule, w, 8, false),
         gptq_members(4, 128, false, "gptq") + R"(,"dynamic":{"+:.*up.*":{"bits":8,"group_size":64}})", w.values(),
         Type::q8_0);
}

TEST_F(QuantizedCheckpointTest, TheFilesOfOlderWritersSayItToo) {
  const Codes w = packing::random_codes(32, 128, 64, 4, true, 5);
  folder.write_weights(packing::gptq(kModule, w, 4, false));
  folder.write("config.json", "{}");
  folder.write("quantize_config.json", R"({"bits":4,"group_size":64,"desc_act":false,"sym":true})");
  const auto gptq = open_quantization_config(folder.path());
  ASSERT_TRUE(gptq && *gptq);
  EXPECT_EQ((*gptq)->method, QuantizationConfig::Method::gptq);
  EXPECT_EQ((*gptq)->schemes[0].group, 64);
  const auto awq =
      read_quantization_config("", "", R"({"zero_point":true,"q_group_size":128,"w_bit":4,"version":"GEMM"})", "f");
  ASSERT_TRUE(awq && *awq);
  EXPECT_EQ((*awq)->method, QuantizationConfig::Method::awq);
  EXPECT_EQ((*awq)->schemes[0].group, 128);
  const auto none = read_quantization_config("{}", "", "", "f");
  ASSERT_TRUE(none.has_value());
  EXPECT_FALSE(none->has_value());
}

TEST_F(QuantizedCheckpointTest, AwqInItsOwnOrder) {
  for (const int group : {32, 64, 128, -1}) {
    const Codes w = packing::random_codes(48, 256, group, 4, false, 9);
    const std::string members =
        R"("quant_method":"awq","bits":4,"version":"gemm","zero_point":true,"group_size":)" + std::to_string(group);
    expect(packing::awq(kModule, w), members, w.values(), group == 32 ? Type::q5_0 : Type::u4z);
    expect(packing::awq(kModule, w), members, w.values(), Type::q5_0, RowsFor::gguf);
  }
}

std::string compressed(const std::string& format, const std::string& weights) {
  return R"("quant_method":"compressed-tensors","format":")" + format +
         R"(","config_groups":{"group_0":{"targets":["Linear"],"weights":{)" + weights + "}}}";
}

// Scales that bf16 holds.
Codes with_short_scales(Codes w) {
  for (float& scale : w.scale) scale = std::bit_cast<float>(std::bit_cast<std::uint32_t>(scale) & 0xffff0000u);
  return w;
}

TEST_F(QuantizedCheckpointTest, CompressedTensorsPacked) {
  for (const int bits : {4, 8})
    for (const bool symmetric : {true, false})
      for (const int group : {0, 64, 128}) {
        SCOPED_TRACE(testing::Message() << bits << " " << symmetric << " " << group);
        const Codes w = with_short_scales(packing::random_codes(21, 256, group, bits, symmetric, 3));
        const std::string weights = "\"type\":\"int\",\"num_bits\":" + std::to_string(bits) +
                                    (group > 0 ? ",\"strategy\":\"group\",\"group_size\":" + std::to_string(group)
                                               : std::string(",\"strategy\":\"channel\""));
        expect(packing::packed(kModule, w, bits, !symmetric, false), compressed("pack-quantized", weights), w.values(),
               bits == 4 ? (symmetric ? Type::q4_0 : Type::u4z) : (symmetric ? Type::q8_0 : Type::u8z));
      }
  Codes w = with_short_scales(packing::random_codes(21, 256, 64, 4, true, 3));
  std::shuffle(w.group.begin(), w.group.end(), std::mt19937(7));
  expect(packing::packed(kModule, w, 4, false, true),
         compressed("pack-quantized", R"("num_bits":4,"strategy":"group","group_size":64,"actorder":"group")"),
         w.values(), Type::q4_0);
}

TEST_F(QuantizedCheckpointTest, CompressedTensorsInt8) {
  for (const bool channel : {true, false}) {
    Codes w = packing::random_codes(16, 192, 0, 8, true, 3);
    for (float& scale : w.scale) scale = channel ? scale * 1.0001f : 0.0123f;  // f16 does not hold these
    std::vector<std::int8_t> codes;
    for (const int code : w.code) codes.push_back(static_cast<std::int8_t>(code - 128));
    const std::vector<float> scales(w.scale.begin(), w.scale.begin() + (channel ? 16 : 1));
    const std::vector<Entry> entries{
        {kModule + ".weight", "I8", {16, 192}, packing::bytes_of(codes)},
        {kModule + ".weight_scale", "F32", channel ? std::vector<std::int64_t>{16, 1} : std::vector<std::int64_t>{1},
         packing::bytes_of(scales)},
        {kModule + ".input_scale", "F32", {1}, packing::bytes_of(std::vector<float>{0.5f})}};
    const auto members = compressed("int-quantized", R"("num_bits":8,"strategy":"channel")");
    expect(entries, members, w.values(), Type::i8);
    const Found found = read(entries, members, RowsFor::gguf);
    EXPECT_EQ(found.checkpoint.matrices.at(0).type, Type::q8_0);
  }
}

// 8-bit floats under one scale, one for each row, or one for each tile.
TEST_F(QuantizedCheckpointTest, EightBitFloats) {
  std::mt19937 random(5);
  constexpr int kRows = 200, kColumns = 320;
  std::vector<std::uint8_t> codes;
  for (int i = 0; i < kRows * kColumns; ++i) {
    const int code = static_cast<int>(random() % 256);
    codes.push_back(static_cast<std::uint8_t>((code & 127) == 127 ? code - 1 : code));
  }
  const struct {
    std::vector<std::int64_t> shape;
    int rows, columns;
    std::string suffix, members;
  } cases[] = {
      {{}, kRows, kColumns, ".weight_scale", R"("quant_method":"fp8","activation_scheme":"static")"},
      {{1}, kRows, kColumns, ".weight_scale", compressed("float-quantized", R"("num_bits":8,"type":"float")")},
      {{kRows, 1},
       1,
       kColumns,
       ".weight_scale",
       compressed("float-quantized", R"("num_bits":8,"type":"float","strategy":"channel")")},
      {{kRows}, 1, kColumns, ".weight_scale", R"("quant_method":"fbgemm_fp8")"},
      {{2, 3}, 128, 128, ".weight_scale_inv", R"("quant_method":"fp8","fmt":"e4m3","weight_block_size":[128,128])"},
      {{2, 3},
       128,
       128,
       ".weight_scale",
       compressed("float-quantized", R"("num_bits":8,"type":"float","strategy":"block","block_structure":[128,128])")},
  };
  for (const auto& c : cases) {
    const int across = (kColumns + c.columns - 1) / c.columns, down = (kRows + c.rows - 1) / c.rows;
    std::vector<float> scales;
    for (int i = 0; i < across * down; ++i) scales.push_back(1e-4f * static_cast<float>(1 + random() % 1000) / 7);
    std::vector<double> values;
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < kColumns; ++k)
        values.push_back(packing::e4m3(codes[static_cast<std::size_t>(r * kColumns + k)]) *
                         double{scales[static_cast<std::size_t>(r / c.rows * across + k / c.columns)]});
    const std::vector<Entry> entries{{kModule + ".weight", "F8_E4M3", {kRows, kColumns}, codes},
                                     {kModule + c.suffix, "F32", c.shape, packing::bytes_of(scales)}};
    expect(entries, c.members, values, Type::f8_e4m3);
    expect(entries, c.members, values, Type::f16, RowsFor::gguf);
  }
}

std::string state_of(int rows, int columns, int block, bool nested) {
  std::string text = R"({"quant_type":"nf4","blocksize":)" + std::to_string(block) +
                     R"(,"dtype":"bfloat16","shape":[)" + std::to_string(rows) + "," + std::to_string(columns) + "]";
  if (nested) text += R"(,"nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.0625)";
  return text + "}";
}

struct Nf4 {
  std::vector<Entry> entries;
  std::vector<double> values;
};

Nf4 make_nf4(int rows, int columns, int block, bool nested, const std::string& kind = "nf4") {
  std::mt19937 random(11);
  const int blocks = (rows * columns + block - 1) / block;
  std::vector<float> absmax, map, nested_absmax;
  std::vector<std::uint8_t> absmax_codes, packed;
  for (int i = 0; i < 256; ++i) map.push_back(static_cast<float>(i - 128) / 130);
  for (int i = 0; i < (blocks + 255) / 256; ++i) nested_absmax.push_back(0.01f * static_cast<float>(i + 1));
  for (int i = 0; i < blocks; ++i) {
    absmax_codes.push_back(static_cast<std::uint8_t>(random()));
    const float plain = 0.001f * static_cast<float>(1 + random() % 100);
    absmax.push_back(nested ? map[absmax_codes.back()] * nested_absmax[static_cast<std::size_t>(i / 256)] + 0.0625f
                            : plain);
  }
  Nf4 out;
  for (int i = 0; i < rows * columns; ++i) {
    const auto code = static_cast<std::uint8_t>(random() % 16);
    if (i % 2 == 0)
      packed.push_back(static_cast<std::uint8_t>(code << 4));
    else
      packed.back() |= code;
    out.values.push_back(packing::kNf4Values[code] * double{absmax[static_cast<std::size_t>(i / block)]});
  }
  const std::string weight = kModule + ".weight", text = state_of(rows, columns, block, nested);
  std::vector<float> values;
  for (const double v : packing::kNf4Values) values.push_back(static_cast<float>(v));
  out.entries = {{weight, "U8", {static_cast<std::int64_t>(packed.size()), 1}, packed},
                 {weight + ".quant_map", "F32", {16}, packing::bytes_of(values)},
                 {weight + ".quant_state.bitsandbytes__" + kind,
                  "U8",
                  {static_cast<std::int64_t>(text.size())},
                  packing::Bytes(text.begin(), text.end())}};
  if (nested) {
    out.entries.push_back({weight + ".absmax", "U8", {blocks}, absmax_codes});
    out.entries.push_back({weight + ".nested_quant_map", "F32", {256}, packing::bytes_of(map)});
    out.entries.push_back({weight + ".nested_absmax",
                           "F32",
                           {static_cast<std::int64_t>(nested_absmax.size())},
                           packing::bytes_of(nested_absmax)});
  } else {
    out.entries.push_back({weight + ".absmax", "F32", {blocks}, packing::bytes_of(absmax)});
  }
  return out;
}

const std::string kNf4Members = R"("quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4")";

TEST_F(QuantizedCheckpointTest, Nf4PlainAndNested) {
  for (const bool nested : {false, true}) {
    for (const int block : {64, 128}) {
      const Nf4 made = make_nf4(48, 512, block, nested);
      expect(made.entries, kNf4Members, made.values, Type::nf4);
      expect(made.entries, kNf4Members, made.values, Type::f16, RowsFor::gguf);
    }
    const Nf4 odd = make_nf4(10, 96, 64, nested);  // blocks run on from row to row
    expect(odd.entries, kNf4Members, odd.values, Type::f16);
  }
}

TEST_F(QuantizedCheckpointTest, LlmInt8) {
  Codes w = packing::random_codes(16, 128, 0, 8, true, 3);
  std::vector<std::int8_t> codes;
  for (const int code : w.code) codes.push_back(static_cast<std::int8_t>(code - 128));
  std::vector<float> greatest;
  for (std::size_t r = 0; r < 16; ++r) {
    greatest.push_back(0.1f * static_cast<float>(r + 1));
    w.scale[r] = greatest.back() / 127;
  }
  std::vector<Entry> entries{{kModule + ".weight", "I8", {16, 128}, packing::bytes_of(codes)},
                             {kModule + ".SCB", "F32", {16}, packing::bytes_of(greatest)},
                             {kModule + ".weight_format", "U8", {}, {0}}};
  const std::string members = R"("quant_method":"bitsandbytes","load_in_8bit":true)";
  expect(entries, members, w.values(), Type::i8);
  entries.back().data = {2};
  EXPECT_THAT(refusal(entries, members), HasSubstr("supported: 0 (row)"));
}

TEST_F(QuantizedCheckpointTest, WhatBelongsToNoMatrixStaysPlain) {
  const Codes w = packing::random_codes(32, 64, 64, 4, true, 5);
  auto entries = packing::gptq(kModule, w, 4, false);
  entries.push_back({kModule + ".bias", "F16", {32}, packing::Bytes(64)});
  entries.push_back({"model.norm.weight", "F16", {64}, packing::Bytes(128)});
  const Found found = read(entries, gptq_members(4, 64, false, "gptq"));
  ASSERT_EQ(found.checkpoint.matrices.size(), 1u);
  ASSERT_EQ(found.checkpoint.plain.size(), 2u);
  EXPECT_EQ(found.checkpoint.plain[0]->name, kModule + ".bias");
}

TEST_F(QuantizedCheckpointTest, ExpertsOfALayerHaveOneType) {
  const std::string experts = "model.layers.0.mlp.experts.";
  auto entries = packing::gptq(experts + "0.up_proj", packing::random_codes(32, 64, 64, 4, true, 5), 4, false);
  for (const auto& [module, symmetric] : {std::pair{experts + "1.up_proj", false}, {experts + "0.down_proj", true}}) {
    const auto more = packing::gptq(module, packing::random_codes(32, 64, 64, 4, symmetric, 5), 4, false);
    entries.insert(entries.end(), more.begin(), more.end());
  }
  const Found found = read(entries, gptq_members(4, 64, false, "gptq"));
  ASSERT_EQ(found.checkpoint.matrices.size(), 3u);
  for (const QuantizedMatrix& matrix : found.checkpoint.matrices)
    EXPECT_EQ(matrix.type, matrix.name.find("down") == std::string::npos ? Type::u4z : Type::q4_0) << matrix.name;
}

TEST_F(QuantizedCheckpointTest, UnknownMethodsAndVariantsAreNamed) {
  const auto refuse = [&](const std::string& members) {
    const auto config = read_quantization_config(config_of(members), "", "", "folder");
    return config ? std::string() : config.error().message;
  };
  EXPECT_THAT(refuse(R"("quant_method":"hqq")"),
              testing::AllOf(HasSubstr("not supported: 'hqq'; supported: gptq, awq, compressed-tensors, fp8"),
                             HasSubstr("folder/config.json")));
  EXPECT_THAT(refuse(R"("bits":4)"), HasSubstr("\"quant_method\" is missing"));
  EXPECT_THAT(refuse(R"("quant_method":"gptq","bits":5,"group_size":128)"), HasSubstr("2, 3, 4, 8 are supported"));
  EXPECT_THAT(refuse(R"("quant_method":"gptq","bits":4,"group_size":0)"), HasSubstr("\"group_size\" is 0"));
  EXPECT_THAT(refuse(R"("quant_method":"gptq","bits":4,"group_size":-2)"), HasSubstr("\"group_size\" is -2"));
  EXPECT_THAT(refuse(R"("quant_method":"gptq","bits":4,"checkpoint_format":"marlin")"),
              HasSubstr("supported: gptq, gptq_v2"));
  EXPECT_THAT(refuse(R"("quant_method":"awq","bits":4,"version":"gemv")"), HasSubstr("supported: gemm"));
  EXPECT_THAT(refuse(R"("quant_method":"fp8","weight_block_size":[0,128])"), HasSubstr("weight_block_size"));
  EXPECT_THAT(refuse(R"("quant_method":"fp8","weight_block_size":[128])"), HasSubstr("weight_block_size"));
  EXPECT_THAT(refuse(R"("quant_method":"compressed-tensors","format":"marlin-24","config_groups":{})"),
              HasSubstr("pack-quantized"));
  EXPECT_THAT(refuse(R"("quant_method":"compressed-tensors","format":"pack-quantized")"), HasSubstr("config_groups"));
  EXPECT_THAT(refuse(compressed("pack-quantized", R"("num_bits":4,"group_size":0,"strategy":"group")")),
              HasSubstr("\"group_size\" is 0"));
  EXPECT_THAT(refuse(R"("quant_method":17)"), HasSubstr("is not a text"));
}

TEST_F(QuantizedCheckpointTest, PartsThatDisagreeAreRefused) {
  const Codes w = packing::random_codes(32, 256, 64, 4, false, 5);
  const auto members = gptq_members(4, 64, false, "gptq");
  const auto good = packing::gptq(kModule, w, 4, false);
  ASSERT_EQ(refusal(good, members), "");
  const auto with = [&](auto change) {
    auto entries = good;
    change(entries);
    return refusal(entries, members);
  };
  for (const std::size_t part : {1u, 2u})
    EXPECT_THAT(with([&](auto& e) { e.erase(e.begin() + static_cast<std::ptrdiff_t>(part)); }),
                HasSubstr("is missing"));
  EXPECT_THAT(with([](auto& e) { e[0].shape = {16, 64}; }), HasSubstr(".scales"));
  EXPECT_THAT(with([](auto& e) { e[0].shape = {1024}; }), HasSubstr("a matrix of I32"));
  EXPECT_THAT(with([](auto& e) { e[0].type = "F32"; }), HasSubstr("a matrix of I32"));
  EXPECT_THAT(with([](auto& e) { e[1].shape = {2, 8}; }), HasSubstr(".qzeros"));
  EXPECT_THAT(
      with([](auto& e) { e[2].shape = {2, 32}, e[2].data.resize(128), e[1].shape = {2, 4}, e[1].data.resize(32); }),
      HasSubstr("4 groups of 64 columns"));
  EXPECT_THAT(with([](auto& e) { e[2].shape = {0, 32}, e[2].data.clear(); }), HasSubstr(".scales"));
  EXPECT_THAT(with([](auto& e) { e[2].type = "I16"; }), HasSubstr("F32, F16 or BF16"));
  EXPECT_THAT(with([](auto& e) { e[2].data[1] = 0x7e; }), HasSubstr("not a finite number"));
  EXPECT_THAT(with([](auto& e) { e[3].data[4] = 4; }), HasSubstr("puts column 1 into group 4 of 4"));
  EXPECT_THAT(with([](auto& e) { e[3].data[7] = 0x80; }), HasSubstr("puts column 1 into group -"));
  EXPECT_THAT(with([](auto& e) { e[3].shape = {128}, e[3].data.resize(512); }), HasSubstr("I32 [256]"));
  auto bare = good;
  bare.pop_back();
  EXPECT_THAT(refusal(bare, gptq_members(4, 64, true, "gptq")), HasSubstr(".g_idx' is missing"));
  EXPECT_THAT(refusal(good, gptq_members(8, 64, false, "gptq")), HasSubstr(".qzeros"));
  EXPECT_THAT(refusal(good, gptq_members(4, 128, false, "gptq")), HasSubstr("2 groups of 128 columns"));
}

TEST_F(QuantizedCheckpointTest, OtherFormatsRefuseTheSame) {
  const Codes w = with_short_scales(packing::random_codes(32, 256, 64, 4, false, 5));
  const std::string awq = R"("quant_method":"awq","bits":4,"group_size":64)";
  auto entries = packing::awq(kModule, w);
  entries[1].shape = {8, 2};
  EXPECT_THAT(refusal(entries, awq), HasSubstr("I32 [4, 4]"));
  EXPECT_THAT(refusal(packing::awq(kModule, w), R"("quant_method":"awq","bits":4,"group_size":32)"),
              HasSubstr("[8, 32]"));

  const auto members = compressed("pack-quantized", R"("num_bits":4,"strategy":"group","group_size":64)");
  const auto packed = packing::packed(kModule, w, 4, true, false);
  const auto with = [&](auto change) {
    auto all = packed;
    change(all);
    return refusal(all, members);
  };
  ASSERT_EQ(with([](auto&) {}), "");
  EXPECT_THAT(with([](auto& e) { e[2].data[0] = 31; }), HasSubstr("packed codes of [31, 256]"));
  EXPECT_THAT(with([](auto& e) { e[2].data[15] = 0x7f; }), HasSubstr("weight_shape"));
  EXPECT_THAT(with([](auto& e) { e[2].data[7] = 0xff; }), HasSubstr("weight_shape"));
  EXPECT_THAT(with([](auto& e) { e[1].shape = {64, 2}; }), HasSubstr("groups of 64"));
  EXPECT_THAT(with([](auto& e) { e[3].shape = {2, 8}; }), HasSubstr("weight_zero_point"));

  const std::vector<Entry> floats{{kModule + ".weight", "F8_E4M3", {4, 64}, packing::Bytes(256, 0x38)},
                                  {kModule + ".weight_scale", "F32", {4, 1}, packing::Bytes(16, 0x3c)}};
  const std::string fp8 = R"("quant_method":"fp8")";
  ASSERT_EQ(refusal(floats, fp8), "");
  auto bad = floats;
  bad[0].data[77] = 0xff;
  EXPECT_THAT(refusal(bad, fp8), HasSubstr("holds what is not a number"));
  bad = floats;
  bad[1].shape = {2, 2};
  EXPECT_THAT(refusal(bad, fp8), HasSubstr("one for each part of [4, 64]"));
  bad.pop_back();
  EXPECT_THAT(refusal(bad, fp8), HasSubstr("weight_scale' is missing"));

  const Nf4 nf4 = make_nf4(4, 128, 64, false);
  for (const char* text :
       {"{", "[]", R"({"shape":[4,128]})", R"({"shape":[4,128],"blocksize":0})", R"({"shape":[-4,128],"blocksize":64})",
        R"({"shape":[4,64],"blocksize":64})", R"({"shape":[99999999999,9999999999999],"blocksize":64})",
        R"({"shape":[4,128],"blocksize":32})"}) {
    auto all = nf4.entries;
    const std::string_view state = text;
    all[2].data.assign(state.begin(), state.end());
    all[2].shape = {static_cast<std::int64_t>(state.size())};
    EXPECT_NE(refusal(all, kNf4Members), "") << text;
  }
}

}  // namespace
}  // namespace ashlar::models
