// Small models in folders as published quantizers write them, against the plain forward pass over the same values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

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
    // The same for all that share their input, as GPTQ has it: gate and up of an expert.
    constexpr std::string_view kExperts = ".experts.";
    const std::size_t at = module.find(kExperts);
    const int expert = at == module.npos ? 0 : std::atoi(module.c_str() + at + kExperts.size());
    std::vector<std::int32_t> group = codes.group;
    std::shuffle(group.begin(), group.end(), std::mt19937(static_cast<unsigned>(w.columns + expert)));
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
          {"gptq_experts", gptq + "false", by_activation(false), "qwen3moe"},
          {"gptq_experts_by_activation", gptq + "true", by_activation(true), "qwen3moe"},
          {"awq", awq, pack_awq},
          {"awq_experts", awq, pack_awq, "qwen3moe"},
          {"awq_llama", awq, pack_awq, "llama"},
          {"int8",
           R"("quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"g":{"targets":["Linear"],)"
           R"("weights":{"num_bits":8,"type":"int","strategy":"channel","symmetric":true}}})",
           pack_int8},
          {"fp8", R"("quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","weight_block_size":[128,128])",
           pack_fp8},
          {"fp8_deepseek",
           R"("quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","weight_block_size":[128,128])", pack_fp8,
           "deepseek2"},
          {"nf4", R"("quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4")", pack_nf4}};
}

// Matrices are wide enough for every kind of product. All experts are used, for rounding would choose.
TinySpec spec_of(const std::string& architecture) {
  TinySpec s{.architecture = architecture,
             .layers = 1,
             .width = 128,
             .hidden = 832,
             .heads = 4,
             .kv_heads = 2,
             .head_dim = 32,
             .vocabulary = kVocabulary,
             .halves = architecture.starts_with("qwen"),
             .qkv_bias = architecture == "qwen2"};
  if (architecture == "qwen3moe") s.head_norms = true;
  if (architecture == "deepseek2") {
    s.head_dim = 48, s.rope_dims = 16, s.latent_rank = s.query_rank = 64, s.value_dim = 32, s.shared_hidden = 832;
    s.expert_keys = s.choice_bias = true, s.scores = "sigmoid";
  }
  if (architecture == "qwen2" || architecture == "llama") return s;
  s.experts = s.experts_used = 4, s.expert_hidden = 832, s.normalize = true;
  return s;
}

std::string config_of(const std::string& architecture) {
  if (architecture == "llama") return R"("model_type":"llama","architectures":["LlamaForCausalLM"])";
  if (architecture == "qwen2") return R"("model_type":"qwen2","architectures":["Qwen2ForCausalLM"])";
  if (architecture == "qwen3moe")
    return R"("model_type":"qwen3_moe","architectures":["Qwen3MoeForCausalLM"],"head_dim":32,"num_experts":4,)"
           R"("num_experts_per_tok":4,"norm_topk_prob":true,"moe_intermediate_size":832)";
  return R"("model_type":"deepseek_v3","architectures":["DeepseekV3ForCausalLM"],"n_routed_experts":4,)"
         R"("num_experts_per_tok":4,"n_shared_experts":1,"norm_topk_prob":true,"moe_intermediate_size":832,)"
         R"("first_k_dense_replace":0,"n_group":1,"topk_group":1,"routed_scaling_factor":1.0,"scoring_func":"sigmoid",)"
         R"("kv_lora_rank":64,"q_lora_rank":64,"qk_nope_head_dim":32,"qk_rope_head_dim":16,"v_head_dim":32,)"
         R"("num_nextn_predict_layers":1)";
}

struct Written {
  TinyModel tiny;
  packing::Folder folder;
  explicit Written(const Case& c) : tiny(spec_of(c.architecture)), folder("folder_" + c.name) {
    std::vector<Entry> entries;
    for (const auto& [name, w] : tiny.values()) {
      if (name.find("_exps.") != name.npos) {
        add_experts(c, name, w, entries);
        continue;
      }
      const std::string theirs = their_name(name);
      const bool linear = theirs.find("_proj") != theirs.npos && theirs.ends_with(".weight");
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
    if (c.architecture == "deepseek2") add_further_layer(c, entries);
    folder.write_weights(entries);
    folder.write(
        "config.json",
        "{" + config_of(c.architecture) +
            R"(,"hidden_size":128,"intermediate_size":832,"num_hidden_layers":1,)"
            R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":512,"max_position_embeddings":128,)"
            R"("rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":false,"quantization_config":{)" +
            c.members + "}}");
    fs::copy_file(kTokenizer, fs::path(folder.path()) / "tokenizer.model");
  }

  // Each expert's matrices by themselves.
  void add_experts(const Case& c, const std::string& name, const TinyModel::Values& w, std::vector<Entry>& entries) {
    const std::string part = name.substr(name.find("ffn_") + 4, name.find("_exps") - name.find("ffn_") - 4);
    const int experts = tiny.spec().experts, rows = w.rows / experts;
    std::vector<double> values;
    for (int e = 0; e < experts; ++e) {
      const auto begin = w.values.begin() + std::ptrdiff_t{e} * rows * w.columns;
      const Packed packed = c.pack("model.layers.0.mlp.experts." + std::to_string(e) + "." + part + "_proj",
                                   {rows, w.columns, {begin, begin + std::ptrdiff_t{rows} * w.columns}});
      entries.insert(entries.end(), packed.entries.begin(), packed.entries.end());
      values.insert(values.end(), packed.values.begin(), packed.values.end());
    }
    tiny.set_values(name, std::move(values));
  }

  // One that predicts a second token.
  static void add_further_layer(const Case& c, std::vector<Entry>& entries) {
    const TinyModel::Values w{8, 128, std::vector<double>(8 * 128, 0.5)};
    for (const char* module : {"eh_proj", "self_attn.q_a_proj", "mlp.experts.0.gate_proj", "shared_head.head"}) {
      const Packed packed = c.pack(std::string("model.layers.1.") + module, w);
      entries.insert(entries.end(), packed.entries.begin(), packed.entries.end());
    }
    for (const char* vector : {"enorm", "hnorm", "shared_head.norm", "embed_tokens"})
      entries.push_back({std::string("model.layers.1.") + vector + ".weight",
                         "F32",
                         {2},
                         packing::bytes_of(std::vector<float>{1, 2})});
  }

  static std::string their_name(const std::string& name) {
    if (name == "token_embd.weight") return "model.embed_tokens.weight";
    if (name == "output_norm.weight") return "model.norm.weight";
    if (name == "output.weight") return "lm_head.weight";
    const std::size_t dot = name.find('.', 4), end = name.rfind('.');
    const std::string part = name.substr(dot + 1, end - dot - 1), kind = name.substr(end);
    if (part == "exp_probs_b") return "model.layers.0.mlp.gate.e_score_correction_bias";
    const std::map<std::string, std::string> parts{{"attn_q_norm", "self_attn.q_norm"},
                                                   {"attn_k_norm", "self_attn.k_norm"},
                                                   {"attn_q_a", "self_attn.q_a_proj"},
                                                   {"attn_q_a_norm", "self_attn.q_a_layernorm"},
                                                   {"attn_q_b", "self_attn.q_b_proj"},
                                                   {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
                                                   {"attn_kv_b", "self_attn.kv_b_proj"},
                                                   {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
                                                   {"ffn_gate_inp", "mlp.gate"},
                                                   {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                                                   {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
                                                   {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
                                                   {"attn_norm", "input_layernorm"},
                                                   {"ffn_norm", "post_attention_layernorm"},
                                                   {"attn_q", "self_attn.q_proj"},
                                                   {"attn_k", "self_attn.k_proj"},
                                                   {"attn_v", "self_attn.v_proj"},
                                                   {"attn_output", "self_attn.o_proj"},
                                                   {"ffn_gate", "mlp.gate_proj"},
                                                   {"ffn_up", "mlp.up_proj"},
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
