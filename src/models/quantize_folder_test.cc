// Quantized folders as they are written, unpacked bit by bit by the formats' descriptions, and read back by our
// readers.
#include "models/quantize_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/json_full.h"
#include "kernels/blocks.h"
#include "models/formats/hf_tensors.h"
#include "models/formats/quantized_folder_test.h"
#include "models/quantizers/folder_layers.h"
#include "models/tiny_folder_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const FolderWatch kGoOn = [](std::int64_t, std::string_view) -> Status { return {}; };
const CalibrationWatch kOn = [](double, int) -> Status { return {}; };

std::vector<std::uint32_t> words_of(const safetensors::Tensor& t) {
  std::vector<std::uint32_t> out(t.data.size() / 4);
  std::memcpy(out.data(), t.data.data(), t.data.size());
  return out;
}
double half_at(const safetensors::Tensor& t, std::size_t i) {
  std::uint16_t bits;
  std::memcpy(&bits, t.data.data() + 2 * i, 2);
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -size : size;
}
double float_at(const safetensors::Tensor& t, std::size_t i) {
  float value;
  std::memcpy(&value, t.data.data() + 4 * i, 4);
  return value;
}
// A code of a stream of bits over words that lie `stride` apart.
int bits_at(const std::vector<std::uint32_t>& words, std::size_t first, std::size_t stride, std::size_t index,
            int bits) {
  int code = 0;
  for (int b = 0; b < bits; ++b) {
    const std::size_t at = index * static_cast<std::size_t>(bits) + static_cast<std::size_t>(b);
    code |= static_cast<int>(words[first + at / 32 * stride] >> at % 32 & 1) << b;
  }
  return code;
}

// What a module's tensors stand for, and its greatest scale: [rows][columns].
struct Unpacked {
  std::size_t rows = 0, columns = 0;
  std::vector<double> values;
  double most_scale = 0;

  void fill(auto&& code_less_zero, auto&& scale) {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c) {
        most_scale = std::max(most_scale, std::abs(scale(r, c)));
        values.push_back(scale(r, c) * code_less_zero(r, c));
      }
  }
};

Unpacked unpack(const safetensors::Checkpoint& file, const std::string& module, const FolderForm& form) {
  const auto part = [&](const char* suffix) -> const safetensors::Tensor& {
    const auto* found = file.find(module + suffix);
    CHECK(found != nullptr, suffix);
    return *found;
  };
  Unpacked out;
  const int bits = form.code.bits;
  const auto size = [&](std::size_t columns) {
    return form.code.scales == CodeForm::Scales::groups ? static_cast<std::size_t>(form.code.group) : columns;
  };
  if (form.format == FolderFormat::gptq) {
    const auto weight = words_of(part(".qweight")), zeros = words_of(part(".qzeros")), index = words_of(part(".g_idx"));
    const auto& scales = part(".scales");
    out.rows = static_cast<std::size_t>(scales.shape[1]);
    out.columns = index.size();
    const std::size_t across = static_cast<std::size_t>(part(".qzeros").shape[1]);
    out.fill(
        [&](std::size_t r, std::size_t c) {
          return bits_at(weight, r, out.rows, c, bits) - (bits_at(zeros, index[c] * across, 1, r, bits) + 1);
        },
        [&](std::size_t r, std::size_t c) { return half_at(scales, index[c] * out.rows + r); });
  } else if (form.format == FolderFormat::awq) {
    const auto weight = words_of(part(".qweight")), zeros = words_of(part(".qzeros"));
    const auto& scales = part(".scales");
    constexpr std::size_t kPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of a row of eight, in nibbles
    out.rows = static_cast<std::size_t>(scales.shape[1]);
    out.columns = static_cast<std::size_t>(part(".qweight").shape[0]);
    const auto nibble = [&](const std::vector<std::uint32_t>& words, std::size_t line, std::size_t r) {
      return static_cast<int>(words[line * (out.rows / 8) + r / 8] >> 4 * kPlace[r % 8] & 15);
    };
    out.fill(
        [&](std::size_t r, std::size_t c) { return nibble(weight, c, r) - nibble(zeros, c / size(out.columns), r); },
        [&](std::size_t r, std::size_t c) { return half_at(scales, c / size(out.columns) * out.rows + r); });
  } else if (file.find(module + ".weight_packed") != nullptr) {
    const auto weight = words_of(part(".weight_packed"));
    const auto& scales = part(".weight_scale");
    std::int64_t shape[2];
    std::memcpy(shape, part(".weight_shape").data.data(), sizeof shape);
    out.rows = static_cast<std::size_t>(shape[0]);
    out.columns = static_cast<std::size_t>(shape[1]);
    const auto groups = static_cast<std::size_t>(scales.shape[1]), across = weight.size() / out.rows;
    const auto zeros = form.code.symmetric ? std::vector<std::uint32_t>() : words_of(part(".weight_zero_point"));
    out.fill(
        [&](std::size_t r, std::size_t c) {
          const int zero = zeros.empty() ? 1 << (bits - 1) : bits_at(zeros, c / size(out.columns), groups, r, bits);
          return bits_at(weight, r * across, 1, c, bits) - zero;
        },
        [&](std::size_t r, std::size_t c) { return half_at(scales, r * groups + c / size(out.columns)); });
  } else {
    const auto& weight = part(".weight");
    const bool scb = form.format == FolderFormat::bitsandbytes;
    const auto& scales = part(scb ? ".SCB" : ".weight_scale");
    out.rows = static_cast<std::size_t>(weight.shape[0]);
    out.columns = static_cast<std::size_t>(weight.shape[1]);
    out.fill(
        [&](std::size_t r, std::size_t c) -> double {
          const auto code = static_cast<int>(weight.data[r * out.columns + c]);
          if (weight.type == safetensors::Type::i8) return code < 128 ? code : code - 256;
          if (weight.type == safetensors::Type::f8_e4m3) return packing::e4m3(code);
          const int exponent = code >> 2 & 31, fraction = code & 3;
          const double value = exponent == 0 ? std::ldexp(fraction, -16) : std::ldexp(4 + fraction, exponent - 17);
          return (code & 128) != 0 ? -value : value;
        },
        [&](std::size_t r, std::size_t) { return float_at(scales, scales.elements() == 1 ? 0 : r) / (scb ? 127 : 1); });
  }
  return out;
}

class QuantizeFolder : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(std::string_view name) const { return folder_ / name; }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  static LoadedModel open(const std::string& folder) {
    auto file = open_file(folder);
    CHECK(file.has_value(), file.error().message.c_str());
    auto model = open_model(std::move(*file));
    CHECK(model.has_value(), model.error().message.c_str());
    return std::move(*model);
  }
  LoadedModel write(const TinySpec& spec) {
    write_tiny_folder(TinyModel(spec), path("in"));
    return open(path("in"));
  }
  static std::vector<std::int32_t> tokens(int count) {
    std::vector<std::int32_t> out;
    for (int i = 0; i < count; ++i) out.push_back(static_cast<std::int32_t>((i * i + i / 7) % 32));
    return out;
  }
  Status make(const LoadedModel& model, const FolderForm& form, const FolderWatch& watch = kGoOn,
              std::uint64_t shard = kShardBytes, bool resume = false, const CalibrationWatch& layers_watch = kOn) {
    const auto plan = TRY(plan_folder(model, path("in"), form, limits_));
    auto out = TRY(NewFolder::create(path("out"), replace_));
    FolderLayers layers;
    const auto text = tokens(512);
    if (form.method != Method::rtn)
      layers = TRY(make_folder_layers(
          model, plan,
          {.method = form.method, .tokens = text, .window = 64, .gptq = {}, .folder = path("layers"), .resume = resume},
          pool_, layers_watch));
    TRY(write_folder(plan, layers.tensors(), pool_, watch, out, shard));
    return out.commit();
  }
  std::string refusal(const LoadedModel& model, const FolderForm& form) {
    const auto made = make(model, form);
    return made ? "fine" : made.error().message;
  }
  std::vector<float> logits(const std::string& folder) {
    auto loaded = load(folder, {}, pool_);
    CHECK(loaded.has_value(), loaded.error().message.c_str());
    const auto kv = loaded->model->make_kv_store(2, KvType::f16).value();
    const auto text = tokens(32);
    const int blocks[] = {0, 1}, rows[] = {15, 31};
    const Step::Sequence sequences[] = {{.rows = 32, .blocks = blocks}};
    std::vector<float> out(2 * static_cast<std::size_t>(loaded->shape.vocabulary));
    loaded->model->forward({text, sequences, rows, out}, *kv);
    return out;
  }
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double off = 0, all = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      off += std::pow(a[i] - b[i], 2);
      all += std::pow(b[i], 2);
    }
    return std::sqrt(off / all);
  }

  ThreadPool pool_{2};
  FolderLimits limits_;
  bool replace_ = false;
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_quantize_folder_" + std::to_string(::getpid()));
};

TinySpec small(const std::string& architecture = "llama") {
  return {.architecture = architecture,
          .width = 128,
          .hidden = 192,
          .heads = 4,
          .head_dim = 32,
          .qkv_bias = architecture == "qwen2"};
}

FolderForm form(const FolderWish& wish) {
  const auto found = form_of(wish);
  CHECK(found.has_value(), found.error().message.c_str());
  return *found;
}

const FolderWish kWishes[] = {
    {.format = "gptq", .group = 64},
    {.format = "gptq", .bits = 2, .group = 32, .asymmetric = true},
    {.format = "gptq", .bits = 3, .group = -1},
    {.format = "gptq", .bits = 3, .group = 64, .asymmetric = true},
    {.format = "gptq", .bits = 8, .group = 64},
    {.format = "awq", .group = 64},
    {.format = "awq", .group = 32, .symmetric = true},
    {.format = "awq", .group = -1},
    {.format = "compressed-tensors", .group = 64},
    {.type = "w4a16", .group = 32, .asymmetric = true},
    {.type = "W4A16", .group = -1},
    {.type = "W8A16", .group = 64},
    {.type = "W8A16", .group = 64, .asymmetric = true},
    {.type = "W8A8"},
    {.type = "F8_E4M3"},
    {.type = "F8_E4M3", .scales = "tensor"},
    {.type = "F8_E5M2"},
    {.type = "f8_e5m2", .scales = "tensor"},
};

TEST_F(QuantizeFolder, HoldsTheNearestCodesAsTheFormatsDescribeThem) {
  for (const char* architecture : {"llama", "qwen2"}) {
    const LoadedModel model = write(small(architecture));
    const auto before = safetensors::Checkpoint::open(path("in")).value();
    for (const FolderWish& wish : kWishes) {
      replace_ = true;
      const FolderForm wanted = form(wish);
      const auto made = make(model, wanted);
      ASSERT_TRUE(made) << wanted.name() << ": " << made.error().message;
      const auto after = safetensors::Checkpoint::open(path("out")).value();
      const LoadedModel read = open(path("out"));
      int matrices = 0;
      for (const safetensors::Tensor& tensor : before.tensors()) {
        if (!tensor.name.ends_with("_proj.weight")) continue;
        ++matrices;
        const std::string module = tensor.name.substr(0, tensor.name.size() - 7);
        const Unpacked unpacked = unpack(after, module, wanted);
        ASSERT_EQ(unpacked.values.size(), static_cast<std::size_t>(tensor.elements())) << wanted.name();
        const bool floats = wanted.code.levels != CodeForm::Levels::integers;
        for (std::size_t i = 0; i < unpacked.values.size(); ++i) {
          const double w = float_at(tensor, i);
          // Half a step of the scale, a whole one where the greatest of a symmetric group has no code; of floats half
          // a step of their fraction.
          const double near = floats
                                  ? std::abs(w) / (wanted.code.levels == CodeForm::Levels::f8_e4m3 ? 16 : 8) +
                                        unpacked.most_scale * 0.001
                                  : unpacked.most_scale * (wanted.code.symmetric ? 0.51 : 1.01) + std::abs(w) * 0x1p-10;
          ASSERT_NEAR(unpacked.values[i], w, near) << wanted.name() << " " << tensor.name << " " << i;
        }
        // Our reader has the same values, in the order of rows that GGUF has.
        const std::string name = gguf_name(model.shape.architecture, tensor.name);
        const gguf::Tensor& ours = *read.file->find_tensor(name);
        std::vector<std::byte> room;
        const auto bytes = read.file->read(ours, room).value();
        std::vector<float> values(static_cast<std::size_t>(ours.elements()));
        kernels::dequantize_row(ours.type, bytes.data(), values.data(), ours.elements());
        const int heads = woven_heads(model.shape, name);
        for (std::size_t r = 0; r < unpacked.rows; ++r) {
          const std::size_t from =
              heads > 0 ? row_before_weaving(r, unpacked.rows / static_cast<std::size_t>(heads)) : r;
          for (std::size_t c = 0; c < unpacked.columns; ++c) {
            const double expected = unpacked.values[from * unpacked.columns + c];
            // The types of products hold them exactly; F16 in their place holds 11 bits.
            const double rounding = ours.type == kernels::Type::f16 ? 0x1p-11 : 1e-6;
            ASSERT_NEAR(values[r * unpacked.columns + c], expected, std::abs(expected) * rounding + 1e-9)
                << wanted.name() << " " << name;
          }
        }
      }
      EXPECT_EQ(matrices, 14);
      const bool rough = wanted.code.bits < 4 || wanted.code.levels == CodeForm::Levels::f8_e5m2;
      EXPECT_LT(distance(logits(path("out")), logits(path("in"))), rough                   ? 1.5
                                                                   : wanted.code.bits == 4 ? 0.3
                                                                                           : 0.1)
          << wanted.name();
    }
  }
}

TEST_F(QuantizeFolder, SaysInConfigJsonWhatOtherEnginesLookFor) {
  const LoadedModel model = write(small());
  replace_ = true;
  const auto config = [&](const FolderWish& wish) {
    EXPECT_TRUE(make(model, form(wish)));
    std::ifstream file(path("out") + "/config.json");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    return (*parse_json(text))["quantization_config"];
  };
  const Json gptq = config({.format = "gptq", .bits = 8, .group = 64});
  EXPECT_EQ(gptq["quant_method"], "gptq");
  EXPECT_EQ(gptq["checkpoint_format"], "gptq");
  EXPECT_EQ(gptq["bits"], 8);
  EXPECT_EQ(gptq["group_size"], 64);
  EXPECT_EQ(gptq["desc_act"], false);
  EXPECT_EQ(gptq["sym"], true);
  EXPECT_TRUE(fs::exists(path("out") + "/quantize_config.json"));
  const Json awq = config({.format = "awq", .group = -1});
  EXPECT_EQ(awq["quant_method"], "awq");
  EXPECT_EQ(awq["group_size"], -1);
  EXPECT_EQ(awq["zero_point"], true);
  EXPECT_EQ(awq["version"], "gemm");
  EXPECT_EQ(awq["modules_to_not_convert"], Json::array({"lm_head"}));
  const Json packed = config({.type = "W4A16", .group = 32, .asymmetric = true});
  EXPECT_EQ(packed["quant_method"], "compressed-tensors");
  EXPECT_EQ(packed["format"], "pack-quantized");
  EXPECT_EQ(packed["ignore"], Json::array({"lm_head"}));
  const Json& group = packed["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"], Json::array({"Linear"}));
  EXPECT_EQ(group["weights"]["strategy"], "group");
  EXPECT_EQ(group["weights"]["group_size"], 32);
  EXPECT_EQ(group["weights"]["symmetric"], false);
  EXPECT_TRUE(group["input_activations"].is_null());
  const Json ints = config({.type = "W8A8"});
  EXPECT_EQ(ints["format"], "int-quantized");
  EXPECT_EQ(ints["config_groups"]["group_0"]["weights"]["strategy"], "channel");
  EXPECT_EQ(ints["config_groups"]["group_0"]["input_activations"]["strategy"], "token");
  EXPECT_EQ(ints["config_groups"]["group_0"]["input_activations"]["dynamic"], true);
  const Json floats = config({.type = "F8_E4M3", .scales = "tensor"});
  EXPECT_EQ(floats["format"], "float-quantized");
  EXPECT_EQ(floats["config_groups"]["group_0"]["weights"]["type"], "float");
  EXPECT_EQ(floats["config_groups"]["group_0"]["weights"]["strategy"], "tensor");
  EXPECT_EQ(config({.type = "F8_E5M2"})["fmt"], "e5m2");
}

TEST_F(QuantizeFolder, EveryMethodKeepsWhatTheModelComputes) {
  for (const char* architecture : {"llama", "qwen2"}) {
    TinySpec spec = small(architecture);
    spec.halves = spec.qkv_bias;
    const LoadedModel model = write(spec);
    const auto before = logits(path("in"));
    replace_ = true;
    for (const FolderWish& wish : {FolderWish{.format = "gptq", .method = Method::gptq, .bits = 8, .group = 64},
                                   FolderWish{.type = "W8A16", .method = Method::gptq, .group = -1, .asymmetric = true},
                                   FolderWish{.type = "W8A16", .method = Method::awq, .group = 32},
                                   FolderWish{.type = "W8A8", .method = Method::smoothquant},
                                   FolderWish{.type = "F8_E4M3", .method = Method::smoothquant},
                                   FolderWish{.type = "F8_E4M3", .method = Method::gptq},
                                   FolderWish{.type = "F8_E4M3", .scales = "tensor", .method = Method::gptq},
                                   FolderWish{.method = Method::llm_int8}}) {
      FolderForm wanted = form(wish);
      wanted.outliers = 2;
      const auto made = make(model, wanted);
      ASSERT_TRUE(made) << made.error().message;
      EXPECT_LT(distance(logits(path("out")), before), wanted.code.levels == CodeForm::Levels::integers ? 0.05 : 0.1)
          << wanted.name() << " " << name_of(wish.method) << " " << spec.architecture;
    }
  }
}

TEST_F(QuantizeFolder, KeepsColumnsThatMeetOutliersAsTheyAre) {
  const LoadedModel model = write(small());
  FolderForm wanted = form({.method = Method::llm_int8});
  wanted.outliers = 2;
  ASSERT_TRUE(make(model, wanted));
  const auto before = safetensors::Checkpoint::open(path("in")).value();
  const auto after = safetensors::Checkpoint::open(path("out")).value();
  const LoadedModel read = open(path("out"));
  for (const std::string module : {"model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"}) {
    const auto* columns = after.find(module + ".outlier_columns");
    ASSERT_NE(columns, nullptr) << module;
    const auto indices = words_of(*columns);
    EXPECT_LT(indices.size(), 128u) << "not all of them";
    const safetensors::Tensor& weights = *after.find(module + ".outlier_weight");
    const safetensors::Tensor& source = *before.find(module + ".weight");
    const std::string name = gguf_name("llama", module + ".weight");
    const gguf::Tensor& ours = *read.file->find_tensor(name);
    ASSERT_NE(ours.kept, nullptr);
    std::vector<std::byte> room;
    const auto bytes = read.file->read(ours, room).value();
    std::vector<float> values(static_cast<std::size_t>(ours.elements()));
    kernels::dequantize_row(ours.type, bytes.data(), values.data(), ours.elements());
    const auto rows = static_cast<std::size_t>(source.shape[0]);
    const int heads = woven_heads(model.shape, name);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t from = heads > 0 ? row_before_weaving(r, rows / static_cast<std::size_t>(heads)) : r;
      for (std::size_t k = 0; k < indices.size(); ++k) {
        const double w = float_at(source, from * 128 + indices[k]);
        std::uint16_t half;
        std::memcpy(&half, weights.data.data() + 2 * (from * indices.size() + k), 2);
        EXPECT_EQ(kernels::bf16_to_f32(half), ours.kept->weights[k * rows + r]);
        EXPECT_NEAR(ours.kept->weights[k * rows + r], w, std::abs(w) / 256);
        EXPECT_EQ(values[r * 128 + indices[k]], 0) << "the codes have it no more";
      }
    }
  }
  // Indices are looked at before they are used.
  std::ifstream file(path("out") + "/model.safetensors", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto data = after.find("model.layers.0.mlp.up_proj.outlier_columns")->data;
  const auto shard = after.shards().front().bytes();
  const std::uint32_t beyond = 128;
  std::memcpy(text.data() + (data.data() - shard.data()), &beyond, 4);
  std::ofstream(path("out") + "/model.safetensors", std::ios::binary) << text;
  EXPECT_THAT(open_file(path("out")).error().message, HasSubstr("are not rising columns below 128"));
}

TEST_F(QuantizeFolder, CutsShardsAndIndexesThem) {
  write_tiny_folder(TinyModel(small()), path("in"), {.sharded = true, .generation = R"({"temperature": 0.5})"});
  const LoadedModel model = open(path("in"));
  ASSERT_TRUE(make(model, form({.type = "W8A8"}), kGoOn, 60'000));
  EXPECT_FALSE(fs::exists(path("out") + "/model.safetensors"));
  EXPECT_TRUE(fs::exists(path("out") + "/model.safetensors.index.json"));
  EXPECT_TRUE(fs::exists(path("out") + "/generation_config.json"));
  EXPECT_TRUE(fs::exists(path("out") + "/vocab.json"));
  EXPECT_GT(safetensors::Checkpoint::open(path("out")).value().shards().size(), 2u);
  EXPECT_LT(distance(logits(path("out")), logits(path("in"))), 0.05);
  const auto part = safetensors::Checkpoint::open(path("out")).value();
  EXPECT_THAT(part.metadata(), testing::Contains(std::pair<std::string, std::string>("format", "pt")));
}

TEST_F(QuantizeFolder, GoesOnWhereItWasStopped) {
  const LoadedModel model = write(small());
  const FolderForm wanted = form({.format = "gptq", .method = Method::gptq, .group = 64});
  const auto bytes = [&] {
    std::ifstream file(path("out") + "/model.safetensors", std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  ASSERT_TRUE(make(model, wanted));
  const std::string whole = bytes();
  fs::remove_all(path("out"));
  remove_folder_layers(path("layers"), 2);
  EXPECT_FALSE(fs::exists(path("layers")));
  const auto stopped = make(model, wanted, kGoOn, kShardBytes, false, [](double, int layer) -> Status {
    if (layer == 1) return Error{Code::cancelled, "stop"};
    return {};
  });
  EXPECT_EQ(stopped.error().code, Code::cancelled);
  EXPECT_FALSE(fs::exists(path("out")));
  bool measured_first = false;
  ASSERT_TRUE(make(model, wanted, kGoOn, kShardBytes, true, [&](double done, int layer) -> Status {
    measured_first |= layer == 0 && done < 0.4;
    return {};
  }));
  EXPECT_FALSE(measured_first);
  EXPECT_EQ(bytes(), whole);
  fs::remove_all(path("out"));
  const auto other = make(model, form({.format = "awq", .method = Method::awq, .group = 64}), kGoOn, kShardBytes, true);
  EXPECT_THAT(other.error().message, HasSubstr("belongs to other work"));
}

TEST_F(QuantizeFolder, RefusesInOneSentenceAndLeavesNothing) {
  const LoadedModel model = write(small());
  const FolderForm plain = form({.type = "W8A8"});
  EXPECT_EQ(entries(), 1u);
  // A full disk.
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit tight{.rlim_cur = 100'000, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const std::string full = refusal(model, plain);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, previous);
  EXPECT_THAT(full, HasSubstr("out: cannot be written"));
  EXPECT_EQ(entries(), 1u);
  // Somebody stops it.
  int looks = 0;
  EXPECT_EQ(make(model, plain,
                 [&](std::int64_t, std::string_view) -> Status {
                   if (looks++ == 5) return Error{Code::cancelled, "stop"};
                   return {};
                 })
                .error()
                .code,
            Code::cancelled);
  EXPECT_EQ(entries(), 1u);
  // What is there stays, unless it is a model's and may go.
  fs::create_directories(path("out") + "/photos");
  std::ofstream(path("out") + "/config.json") << "{}";
  EXPECT_THAT(refusal(model, plain), HasSubstr("out: is there already"));
  replace_ = true;
  EXPECT_THAT(refusal(model, plain), HasSubstr("of something else than a model"));
  EXPECT_TRUE(fs::exists(path("out") + "/photos"));
  fs::remove(path("out") + "/photos");
  EXPECT_EQ(refusal(model, plain), "fine");
  EXPECT_EQ(entries(), 2u);
  replace_ = false;
  fs::remove_all(path("out"));
  // Too large to be rounded without a look at activations.
  limits_.rtn_parameters = 1000;
  EXPECT_THAT(refusal(model, plain), HasSubstr("billion parameters"));
  limits_ = {};
  // Not a folder; quantized already; a form that nothing fits.
  const auto file = plan_folder(model, path("in") + "/config.json", plain, {});
  EXPECT_THAT(file.error().message, HasSubstr("made of a Hugging Face folder"));
  const LoadedModel narrow = write({.width = 32, .hidden = 40, .heads = 2, .kv_heads = 2, .head_dim = 16});
  EXPECT_THAT(refusal(narrow, form({.format = "gptq"})), HasSubstr("no matrix of it can be"));
  ASSERT_EQ(refusal(narrow, plain), "fine");
  fs::rename(path("out"), path("again"));
  EXPECT_THAT(plan_folder(open(path("again")), path("again"), plain, {}).error().message,
              HasSubstr("is quantized already"));
}

TEST_F(QuantizeFolder, NamesTheTensorThatIsNotFinite) {
  write(small());
  std::string bytes;
  {
    std::ifstream file(path("in") + "/model.safetensors", std::ios::binary);
    bytes = {std::istreambuf_iterator<char>(file), {}};
    const auto checkpoint = safetensors::Checkpoint::open(path("in")).value();
    const auto data = checkpoint.find("model.layers.1.mlp.up_proj.weight")->data;
    const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
    const float bad = std::nanf("");
    bytes.replace(at + 400, 4, reinterpret_cast<const char*>(&bad), 4);
  }
  std::ofstream(path("in") + "/model.safetensors", std::ios::binary) << bytes;
  const LoadedModel model = open(path("in"));
  for (const FolderWish& wish :
       {FolderWish{.type = "F8_E4M3"}, FolderWish{.format = "awq", .method = Method::awq, .group = 64}})
    EXPECT_THAT(refusal(model, form(wish)),
                HasSubstr("tensor 'model.layers.1.mlp.up_proj.weight' holds a value that is not finite"));
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST(FolderForm, SaysWhatDoesNotGoTogether) {
  const std::pair<FolderWish, const char*> refused[] = {
      {{.format = "exl2"}, "no format is called 'exl2'; known are gguf, gptq, awq, compressed-tensors, bitsandbytes"},
      {{.format = "gptq", .bits = 5}, "--bits: gptq has 2, 3, 4, 8, not 5"},
      {{.format = "awq", .bits = 3}, "--bits: awq has 4, not 3"},
      {{.format = "gptq", .group = 48}, "--group: is 48; 32, 64, 128, or -1"},
      {{.type = "W8A8", .group = 128}, "--group: W8A8 has one scale for each row"},
      {{.type = "W8A8", .asymmetric = true}, "--asymmetric: W8A8 is symmetric"},
      {{.format = "gptq", .type = "W8A8"}, "--type: 'W8A8' is none of gptq"},
      {{.type = "W4A16", .bits = 8}, "--bits: W4A16 has 4, not 8"},
      {{.type = "W4A16", .method = Method::smoothquant}, "--method: smoothquant does not make"},
      {{.type = "F8_E4M3", .method = Method::awq}, "--method: awq does not make F8_E4M3 per channel; these do: rtn"},
      {{.type = "F8_E4M3", .scales = "block"}, "--scales: is 'block'"},
      {{.type = "W8A8", .scales = "tensor"}, "--scales: of 8-bit floats alone"},
      {{.format = "gptq", .method = Method::llm_int8}, "--method: llm.int8 does not make gptq 4 bits"},
      {{.format = "bitsandbytes"}, "--method: rtn does not make bitsandbytes int8; this does: llm.int8"},
      {{.symmetric = true, .asymmetric = true}, "exclude each other"},
  };
  for (const auto& [wish, said] : refused) {
    const auto found = form_of(wish);
    ASSERT_FALSE(found) << said;
    EXPECT_THAT(found.error().message, HasSubstr(said));
  }
}

}  // namespace
}  // namespace ashlar::models
