// Small models in folders as published quantizers write them, against the plain forward pass over the same values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "kernels/kernels.h"
#include "models/convert.h"
#include "models/formats/quantized_folder_test.h"
#include "models/loader.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using packing::Codes;
using packing::Entry;

const fs::path kTokenizer = "../shared/data/models/stories260K/hf/tokenizer.model";
constexpr int kVocabulary = 512;  // of that tokenizer

// The entries of one module, and the values that they have.
struct Packed {
  std::vector<Entry> entries;
  std::vector<double> values;
};
using Packer = std::function<Packed(const std::string& module, const TinyModel::Values& w)>;

Packed pack_gptq(const std::string& module, const TinyModel::Values& w, bool by_activation) {
  Codes codes = packing::quantized(w.values, w.rows, w.columns, 64, 4, true);
  if (by_activation) {
    // The same for all that share their input, as GPTQ has it.
    std::vector<std::int32_t> group = codes.group;
    std::shuffle(group.begin(), group.end(), std::mt19937(static_cast<unsigned>(w.columns)));
    codes.group = group;
  }
  return {packing::gptq(module, codes, 4, false), codes.values()};
}

Packed pack_awq(const std::string& module, const TinyModel::Values& w) {
  const Codes codes = packing::quantized(w.values, w.rows, w.columns, 64, 4, false);
  return {packing::awq(module, codes), codes.values()};
}

Packed pack_int8(const std::string& module, const TinyModel::Values& w) {
  const Codes codes = packing::quantized(w.values, w.rows, w.columns, 0, 8, true);
  std::vector<std::int8_t> bytes;
  for (const int code : codes.code) bytes.push_back(static_cast<std::int8_t>(code - 128));
  return {{{module + ".weight", "I8", {w.rows, w.columns}, packing::bytes_of(bytes)},
           {module + ".weight_scale", "F32", {w.rows, 1}, packing::bytes_of(codes.scale)}},
          codes.values()};
}

std::uint8_t nearest_e4m3(double value) {
  int best = 0;  // codes of one sign rise
  for (int bit = 64; bit > 0; bit /= 2)
    if ((best | bit) != 127 && packing::e4m3(best | bit) <= std::abs(value)) best |= bit;
  if (best < 126 && std::abs(value) - packing::e4m3(best) > packing::e4m3(best + 1) - std::abs(value)) ++best;
  return static_cast<std::uint8_t>(value < 0 ? best | 128 : best);
}

// Tiles of 128 x 128, as DeepSeek has them.
Packed pack_fp8(const std::string& module, const TinyModel::Values& w) {
  const int across = (w.columns + 127) / 128, down = (w.rows + 127) / 128;
  std::vector<float> scales(static_cast<std::size_t>(across * down), 0);
  const auto scale = [&](int r, int c) -> float& {
    return scales[static_cast<std::size_t>(r / 128 * across + c / 128)];
  };
  const auto at = [&](int r, int c) { return w.values[static_cast<std::size_t>(r * w.columns + c)]; };
  for (int r = 0; r < w.rows; ++r)
    for (int c = 0; c < w.columns; ++c)
      scale(r, c) = std::max(scale(r, c), static_cast<float>(std::abs(at(r, c)) / 448));
  Packed out;
  packing::Bytes codes;
  for (int r = 0; r < w.rows; ++r)
    for (int c = 0; c < w.columns; ++c) {
      codes.push_back(nearest_e4m3(at(r, c) / scale(r, c)));
      out.values.push_back(packing::e4m3(codes.back()) * double{scale(r, c)});
    }
  out.entries = {{module + ".weight", "F8_E4M3", {w.rows, w.columns}, codes},
                 {module + ".weight_scale_inv", "F32", {down, across}, packing::bytes_of(scales)}};
  return out;
}

Packed pack_nf4(const std::string& module, const TinyModel::Values& w) {
  std::vector<float> absmax;
  packing::Bytes codes(w.values.size() / 2);
  Packed out;
  for (std::size_t i = 0; i < w.values.size(); ++i) {
    if (i % 64 == 0) {
      absmax.push_back(0);
      for (std::size_t k = i; k < i + 64; ++k)
        absmax.back() = std::max(absmax.back(), static_cast<float>(std::abs(w.values[k])));
    }
    int best = 0;
    for (int code = 1; code < 16; ++code)
      if (std::abs(packing::kNf4Values[code] * double{absmax.back()} - w.values[i]) <
          std::abs(packing::kNf4Values[best] * double{absmax.back()} - w.values[i]))
        best = code;
    codes[i / 2] |= static_cast<std::uint8_t>(i % 2 == 0 ? best << 4 : best);
    out.values.push_back(packing::kNf4Values[best] * double{absmax.back()});
  }
  const std::string weight = module + ".weight",
                    state = R"({"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[)" +
                            std::to_string(w.rows) + "," + std::to_string(w.columns) + "]}";
  out.entries = {{weight, "U8", {static_cast<std::int64_t>(codes.size()), 1}, codes},
                 {weight + ".absmax", "F32", {static_cast<std::int64_t>(absmax.size())}, packing::bytes_of(absmax)},
                 {weight + ".quant_state.bitsandbytes__nf4",
                  "U8",
                  {static_cast<std::int64_t>(state.size())},
                  packing::Bytes(state.begin(), state.end())}};
  return out;
}

struct Case {
  std::string name, members;
  Packer pack;
  std::string architecture = "qwen2";
};

std::vector<Case> cases() {
  const std::string gptq = R"("quant_method":"gptq","bits":4,"group_size":64,"checkpoint_format":"gptq","desc_act":)";
  const auto by_activation = [](bool yes) {
    return [yes](const std::string& module, const TinyModel::Values& w) { return pack_gptq(module, w, yes); };
  };
  const std::string awq = R"("quant_method":"awq","bits":4,"group_size":64,"version":"gemm","zero_point":true)";
  return {{"gptq", gptq + "false", by_activation(false)},
          {"gptq_by_activation", gptq + "true", by_activation(true)},
          {"gptq_llama", gptq + "true", by_activation(true), "llama"},
          {"awq", awq, pack_awq},
          {"awq_llama", awq, pack_awq, "llama"},
          {"int8",
           R"("quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"g":{"targets":["Linear"],)"
           R"("weights":{"num_bits":8,"type":"int","strategy":"channel","symmetric":true}}})",
           pack_int8},
          {"fp8", R"("quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","weight_block_size":[128,128])",
           pack_fp8},
          {"nf4", R"("quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4")", pack_nf4}};
}

// A model whose matrices are wide enough for every kind of product.
struct Written {
  TinyModel tiny;
  packing::Folder folder;
  explicit Written(const Case& c)
      : tiny({.architecture = c.architecture,
              .layers = 1,
              .width = 128,
              .hidden = 832,
              .heads = 4,
              .kv_heads = 2,
              .head_dim = 32,
              .vocabulary = kVocabulary,
              .halves = c.architecture == "qwen2",
              .qkv_bias = c.architecture == "qwen2"}),
        folder("folder_" + c.name) {
    std::vector<Entry> entries;
    for (const auto& [name, w] : tiny.values()) {
      const std::string theirs = their_name(name);
      const bool linear = theirs.ends_with("_proj.weight");
      if (!linear) {
        std::vector<float> values(w.values.begin(), w.values.end());
        const std::vector<std::int64_t> shape =
            w.rows > 1 ? std::vector<std::int64_t>{w.rows, w.columns} : std::vector<std::int64_t>{w.columns};
        entries.push_back({theirs, "F32", shape, packing::bytes_of(values)});
        continue;
      }
      const int heads = c.architecture != "llama"         ? 0
                        : name.ends_with("attn_q.weight") ? 4
                        : name.ends_with("attn_k.weight") ? 2
                                                          : 0;
      TinyModel::Values source = w;
      source.values = rows_in_order(w, heads, true);
      Packed packed = c.pack(theirs.substr(0, theirs.size() - std::string_view(".weight").size()), source);
      entries.insert(entries.end(), packed.entries.begin(), packed.entries.end());
      source.values = std::move(packed.values);
      tiny.set_values(name, rows_in_order(source, heads, false));
    }
    folder.write_weights(entries);
    const std::string type = c.architecture == "llama" ? R"("model_type":"llama","architectures":["LlamaForCausalLM"])"
                                                       : R"("model_type":"qwen2","architectures":["Qwen2ForCausalLM"])";
    folder.write(
        "config.json",
        "{" + type +
            R"(,"hidden_size":128,"intermediate_size":832,"num_hidden_layers":1,)"
            R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":512,"max_position_embeddings":128,)"
            R"("rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":false,"quantization_config":{)" +
            c.members + "}}");
    fs::copy_file(kTokenizer, fs::path(folder.path()) / "tokenizer.model");
  }

  static std::string their_name(const std::string& name) {
    if (name == "token_embd.weight") return "model.embed_tokens.weight";
    if (name == "output_norm.weight") return "model.norm.weight";
    if (name == "output.weight") return "lm_head.weight";
    const std::size_t dot = name.find('.', 4), end = name.rfind('.');
    const std::string part = name.substr(dot + 1, end - dot - 1), kind = name.substr(end);
    const std::map<std::string, std::string> parts{
        {"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"},
        {"attn_q", "self_attn.q_proj"},   {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"},   {"attn_output", "self_attn.o_proj"},
        {"ffn_gate", "mlp.gate_proj"},    {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"}};
    return "model.layers." + name.substr(4, dot - 4) + "." + parts.at(part) + kind;
  }

  // GGUF weaves the two halves of a head's rows; `apart`: into the order of a folder, or back.
  static std::vector<double> rows_in_order(const TinyModel::Values& w, int heads, bool apart) {
    if (heads == 0) return w.values;
    std::vector<double> out(w.values.size());
    const int size = w.rows / heads;
    for (int r = 0; r < w.rows; ++r) {
      const int within = r % size, theirs = r - within + within % 2 * (size / 2) + within / 2;
      const auto from = static_cast<std::ptrdiff_t>((apart ? r : theirs) * w.columns),
                 to = static_cast<std::ptrdiff_t>((apart ? theirs : r) * w.columns);
      std::copy_n(w.values.begin() + from, w.columns, out.begin() + to);
    }
    return out;
  }
};

std::vector<float> logits_of(Model& model, std::span<const std::int32_t> tokens) {
  auto kv = model.make_kv_store(8, KvType::f16);
  EXPECT_TRUE(kv.has_value());
  std::vector<int> blocks{0, 1, 2, 3}, asked;
  for (int i = 0; i < static_cast<int>(tokens.size()); ++i) asked.push_back(i);
  const std::vector<Step::Sequence> sequences{{0, static_cast<int>(tokens.size()), 0, blocks}};
  std::vector<float> logits(tokens.size() * kVocabulary);
  model.forward({tokens, sequences, asked, logits}, **kv);
  return logits;
}

// Of vectors, relative to the length of one.
double distance(const std::vector<std::vector<double>>& expected, const std::vector<float>& found) {
  double squares = 0, errors = 0;
  std::size_t at = 0;
  for (const auto& row : expected)
    for (const double value : row) {
      const double error = value - double{found[at++]};
      squares += value * value;
      errors += error * error;
    }
  return std::sqrt(errors / squares);
}

class QuantizedFolder : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!fs::exists(kTokenizer)) GTEST_SKIP() << "no shared data";
  }
  void TearDown() override { EXPECT_TRUE(kernels::select_isa("auto")); }
};

std::vector<std::int32_t> some_tokens() {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 9; ++i) tokens.push_back(i * 37 % kVocabulary);
  return tokens;
}

TEST_P(QuantizedFolder, RunsAsThePlainPassComputes) {
  Written written(GetParam());
  const auto tokens = some_tokens();
  const auto expected = written.tiny.logits(tokens);
  ThreadPool pool(2);
  for (const kernels::Kernels* row : kernels::kernel_rows()) {
    ASSERT_TRUE(kernels::select_isa(row->isa));
    auto loaded = load(written.folder.path(), {}, pool);
    ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
    EXPECT_LT(distance(expected, logits_of(*loaded->model, tokens)), 0.03) << row->isa;
  }
}

// What becomes of it in a GGUF file computes the same.
TEST_P(QuantizedFolder, ConvertsToAFileThatComputesTheSame) {
  Written written(GetParam());
  const std::string path = written.folder.path() + "/out.gguf";
  auto out = NewFile::create(path, true);
  ASSERT_TRUE(out.has_value());
  const auto facts = convert_model(written.folder.path(), {}, [](auto, auto, auto) { return Status(); }, *out);
  ASSERT_TRUE(facts.has_value()) << facts.error().message;
  ASSERT_TRUE(out->commit().has_value());
  ThreadPool pool(2);
  auto loaded = load(path, {}, pool);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  const auto tokens = some_tokens();
  EXPECT_LT(distance(written.tiny.logits(tokens), logits_of(*loaded->model, tokens)), 0.03);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, QuantizedFolder, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ashlar::models
