// Folders of models with experts, as their publishers write them, against the files that they should become.
#include "models/formats/hf_experts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/json_full.h"
#include "models/formats/hf_folder.h"
#include "models/loader.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;

const fs::path kTokenizer = "../shared/data/models/stories260K/hf/tokenizer.model";
constexpr int kVocabulary = 512;

using Bytes = std::vector<std::byte>;

// A safetensors file of tensors.
struct Shard {
  Json header = Json::object();
  std::string data;

  void add(const std::string& name, const char* type, const std::vector<std::int64_t>& shape, const Bytes& bytes) {
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    header[name] = {{"dtype", type}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  void write(const fs::path& path) const {
    const std::string text = dump_json(header);
    const std::uint64_t size = text.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), 8);
    file << text << data;
  }
};

Bytes part_of(const gguf::Tensor& tensor, std::int64_t index, std::int64_t count) {
  const std::size_t each = tensor.data.size() / static_cast<std::size_t>(count);
  const auto part = tensor.data.subspan(static_cast<std::size_t>(index) * each, each);
  return {part.begin(), part.end()};
}

// Rows of both, one of each in turn.
Bytes alternating(std::span<const std::byte> gate, std::span<const std::byte> up, std::size_t rows) {
  Bytes out;
  const std::size_t each = gate.size() / rows;
  for (std::size_t r = 0; r < rows; ++r)
    for (const auto from : {gate, up}) {
      const auto row = from.subspan(r * each, each);
      out.insert(out.end(), row.begin(), row.end());
    }
  return out;
}

const std::map<std::string, std::string> kNames{{"attn_norm", "input_layernorm"},
                                                {"ffn_norm", "post_attention_layernorm"},
                                                {"post_attention_norm", "post_attention_layernorm"},
                                                {"attn_q", "self_attn.q_proj"},
                                                {"attn_k", "self_attn.k_proj"},
                                                {"attn_v", "self_attn.v_proj"},
                                                {"attn_output", "self_attn.o_proj"},
                                                {"attn_q_norm", "self_attn.q_norm"},
                                                {"attn_k_norm", "self_attn.k_norm"},
                                                {"attn_q_a", "self_attn.q_a_proj"},
                                                {"attn_q_a_norm", "self_attn.q_a_layernorm"},
                                                {"attn_q_b", "self_attn.q_b_proj"},
                                                {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
                                                {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
                                                {"attn_kv_b", "self_attn.kv_b_proj"},
                                                {"ffn_gate", "mlp.gate_proj"},
                                                {"ffn_up", "mlp.up_proj"},
                                                {"ffn_down", "mlp.down_proj"},
                                                {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"}};

class Folder {
 public:
  Folder(const TinySpec& spec, Json config) : spec_(spec), model_(spec) {
    fs::create_directories(path);
    fs::copy(kTokenizer, path / "tokenizer.model", fs::copy_options::overwrite_existing);
    const std::string bytes = model_.writer().bytes().value();
    const auto view = std::as_bytes(std::span(bytes));
    plain = gguf::File::in_memory({view.begin(), view.end()}, "plain").value();
    for (const gguf::Tensor& tensor : plain.tensors()) add(tensor);
    shard.write(path / "model.safetensors");
    for (const auto& [name, value] : Json{
             {"num_hidden_layers", spec.layers},
             {"hidden_size", spec.width},
             {"intermediate_size", spec.hidden},
             {"num_attention_heads", spec.heads},
             {"num_key_value_heads", spec.kv_heads},
             {"vocab_size", kVocabulary},
             {"max_position_embeddings", spec.context},
             {"rms_norm_eps", 1e-5},
             {"rope_theta", spec.rope_base},
             {"num_experts_per_tok",
              spec.experts_used}}.items())
      config[name] = value;
    std::ofstream(path / "config.json") << dump_json(config);
  }
  ~Folder() { fs::remove_all(path); }

  fs::path path = fs::temp_directory_path() / ("ashlar_hf_experts_" + std::to_string(::getpid()));
  gguf::File plain;
  Shard shard;

 private:
  std::string layer_of(std::string_view name) {
    return "model.layers." + std::string(name.substr(4, name.find('.', 4) - 4)) + ".";
  }

  void add(const gguf::Tensor& tensor) {
    const std::string name(tensor.name), kind = name.substr(name.rfind('.'));
    std::vector<std::int64_t> shape(tensor.dims.rend() - tensor.rank, tensor.dims.rend());
    if (!name.starts_with("blk.")) {
      const std::string theirs = name == "token_embd.weight"    ? "model.embed_tokens.weight"
                                 : name == "output_norm.weight" ? "model.norm.weight"
                                                                : "lm_head.weight";
      return shard.add(theirs, "F32", shape, part_of(tensor, 0, 1));
    }
    const std::string part = name.substr(name.find('.', 4) + 1, name.rfind('.') - name.find('.', 4) - 1);
    const std::string layer = layer_of(name);
    if (part.ends_with("_exps")) return add_experts(tensor, layer, part, kind);
    if (part == "exp_probs_b")
      return shard.add(layer + "mlp.gate.e_score_correction_bias", "F32", shape, part_of(tensor, 0, 1));
    if (part == "attn_sinks") return shard.add(layer + "self_attn.sinks", "F32", shape, part_of(tensor, 0, 1));
    if (part == "ffn_gate_inp_shexp") shape.insert(shape.begin(), 1);
    std::string theirs;
    if (part == "ffn_gate_inp")
      theirs = spec_.architecture == "llama"     ? "block_sparse_moe.gate"
               : spec_.architecture == "gpt-oss" ? "mlp.router"
                                                 : "mlp.gate";
    else if (part.ends_with("_shexp") && part != "ffn_gate_inp_shexp")
      theirs = std::string("mlp.shared_expert") + (spec_.architecture == "deepseek2" ? "s." : ".") +
               part.substr(4, part.size() - 10) + "_proj";
    else
      theirs = kNames.at(part);
    Bytes bytes = part_of(tensor, 0, 1);
    if (spec_.architecture == "llama" && (part == "attn_q" || part == "attn_k")) bytes = unwoven(bytes, shape[0]);
    shard.add(layer + theirs + kind, "F32", shape, bytes);
  }

  Bytes unwoven(const Bytes& bytes, std::int64_t rows) const {
    Bytes out(bytes.size());
    const std::size_t row = bytes.size() / static_cast<std::size_t>(rows), d = static_cast<std::size_t>(spec_.head_dim);
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      const std::size_t within = r % d, woven = r - within + within % (d / 2) * 2 + within / (d / 2);
      std::memcpy(out.data() + r * row, bytes.data() + woven * row, row);
    }
    return out;
  }

  void add_experts(const gguf::Tensor& tensor, const std::string& layer, const std::string& part,
                   const std::string& kind) {
    if (spec_.architecture == "gpt-oss") return add_gpt_oss(tensor, layer, part, kind);
    const std::string which = part.substr(4, part.size() - 9);  // gate, up, down
    for (std::int64_t e = 0; e < spec_.experts; ++e) {
      const std::string mixtral = which == "gate" ? "w1" : which == "up" ? "w3" : "w2";
      const std::string own = spec_.architecture == "llama"
                                  ? "block_sparse_moe.experts." + std::to_string(e) + "." + mixtral
                                  : "mlp.experts." + std::to_string(e) + "." + which + "_proj";
      shard.add(layer + own + kind, "F32", {tensor.dims[1], tensor.dims[0]}, part_of(tensor, e, spec_.experts));
    }
  }

  // Gate and up together, in blocks of codes whose neighbours share a byte, and scales apart.
  void add_gpt_oss(const gguf::Tensor& tensor, const std::string& layer, const std::string& part,
                   const std::string& kind) {
    if (part == "ffn_up_exps") return;  // with gate
    Bytes all = part_of(tensor, 0, 1);
    const bool pair = part == "ffn_gate_exps", bias = kind == ".bias";
    const std::int64_t rows = (bias ? tensor.dims[0] : tensor.dims[1]) * (pair ? 2 : 1);
    if (pair) {
      const std::string up = std::string(tensor.name).replace(tensor.name.find("gate"), 4, "up");
      all = alternating(all, plain.find_tensor(up)->data, static_cast<std::size_t>(spec_.experts * rows / 2));
    }
    const std::string stem = layer + "mlp.experts." + (pair ? "gate_up_proj" : "down_proj");
    if (bias) return shard.add(stem + "_bias", "F32", {spec_.experts, rows}, all);
    Bytes blocks, scales;
    for (std::size_t at = 0; at < all.size(); at += 17) {
      scales.push_back(all[at]);
      for (std::size_t i = 0; i < 32; i += 2) {
        const auto code = [&](std::size_t k) {
          const auto byte = static_cast<int>(all[at + 1 + k % 16]);
          return k < 16 ? byte & 15 : byte >> 4;
        };
        blocks.push_back(static_cast<std::byte>(code(i) | code(i + 1) << 4));
      }
    }
    const std::int64_t units = tensor.dims[0] / 32;
    shard.add(stem + "_blocks", "U8", {spec_.experts, rows, units, 16}, blocks);
    shard.add(stem + "_scales", "U8", {spec_.experts, rows, units}, scales);
  }

  TinySpec spec_;
  TinyModel model_;
};

std::vector<float> logits_of(gguf::File file) {
  ThreadPool pool(1);
  const auto loaded = load(std::move(file), {}, pool);
  EXPECT_TRUE(loaded.has_value()) << loaded.error().message;
  if (!loaded) return {};
  auto kv = loaded->model->make_kv_store(4, KvType::f16).value();
  const std::vector<std::int32_t> tokens{5, 17, 300, 4, 99, 128, 7, 21};
  const std::vector<int> rows{0, 1, 2, 3, 4, 5, 6, 7}, blocks{0, 1};
  std::vector<float> logits(tokens.size() * kVocabulary);
  const std::vector<Step::Sequence> sequences{{0, 8, 0, blocks}};
  loaded->model->forward({tokens, sequences, rows, logits}, *kv);
  return logits;
}

void expect_the_same(const TinySpec& spec, const Json& config) {
  if (!fs::exists(kTokenizer)) GTEST_SKIP() << "no shared data";
  Folder folder(spec, config);
  auto opened = open_folder(folder.path);
  ASSERT_TRUE(opened.has_value()) << opened.error().message;
  for (const gguf::Tensor& expected : folder.plain.tensors()) {
    const gguf::Tensor* found = opened->find_tensor(expected.name);
    ASSERT_NE(found, nullptr) << expected.name;
    EXPECT_EQ(gguf::dims_text(*found), gguf::dims_text(expected)) << expected.name;
    Bytes room;
    const auto bytes = opened->read(*found, room);
    ASSERT_TRUE(bytes.has_value());
    EXPECT_TRUE(std::ranges::equal(*bytes, expected.data)) << expected.name;
  }
  EXPECT_EQ(logits_of(std::move(*opened)), logits_of(std::move(folder.plain)));
}

const TinySpec kBase{.vocabulary = kVocabulary, .experts = 4, .experts_used = 2};

TEST(HfExperts, Mixtral) {
  TinySpec spec = kBase;
  spec.expert_hidden = spec.hidden, spec.normalize = true;
  expect_the_same(spec, {{"model_type", "mixtral"}, {"num_local_experts", 4}});
}

TEST(HfExperts, Qwen2Moe) {
  TinySpec spec = kBase;
  spec.architecture = "qwen2moe", spec.halves = spec.qkv_bias = spec.shared_gate = true, spec.shared_hidden = 40;
  expect_the_same(spec, {{"model_type", "qwen2_moe"},
                         {"num_experts", 4},
                         {"moe_intermediate_size", 24},
                         {"shared_expert_intermediate_size", 40}});
}

TEST(HfExperts, Qwen3Moe) {
  TinySpec spec = kBase;
  spec.architecture = "qwen3moe", spec.halves = spec.head_norms = spec.normalize = true, spec.head_dim = 16;
  expect_the_same(spec, {{"model_type", "qwen3_moe"},
                         {"head_dim", 16},
                         {"num_experts", 4},
                         {"norm_topk_prob", true},
                         {"moe_intermediate_size", 24}});
}

TEST(HfExperts, GptOss) {
  TinySpec spec = kBase;
  spec.architecture = "gpt-oss", spec.width = spec.hidden = spec.expert_hidden = 64, spec.head_dim = 16;
  spec.window = 5, spec.full_every = 2, spec.halves = spec.qkv_bias = spec.output_bias = spec.sinks = true;
  spec.expert_biases = spec.clamped = true, spec.whole_pairs = false, spec.scores = "chosen";
  spec.expert_type = Type::mxfp4, spec.feed_forward_norm = "post_attention_norm", spec.rope_base = 150000;
  spec.rope_scaling = "yarn", spec.rope_factor = 4, spec.original_context = 32;
  expect_the_same(
      spec, {{"model_type", "gpt_oss"},
             {"head_dim", 16},
             {"num_local_experts", 4},
             {"attention_bias", true},
             {"sliding_window", 5},
             {"swiglu_limit", 7.0},
             {"rope_scaling",
              {{"rope_type", "yarn"}, {"factor", 4.0}, {"truncate", false}, {"original_max_position_embeddings", 32}}},
             {"quantization_config", {{"quant_method", "mxfp4"}}}});
}

TEST(HfExperts, Deepseek3) {
  TinySpec spec = kBase;
  spec.architecture = "deepseek2", spec.layers = 3, spec.head_dim = 24, spec.rope_dims = 8, spec.latent_rank = 16;
  spec.query_rank = 24, spec.value_dim = 16, spec.dense_layers = 1, spec.shared_hidden = 24, spec.expert_keys = true;
  spec.choice_bias = spec.normalize = true, spec.scores = "sigmoid", spec.expert_scale = 2.5;
  spec.expert_groups = 2, spec.expert_groups_used = 1;
  spec.rope_scaling = "yarn", spec.rope_factor = 4, spec.original_context = 32, spec.log_multiplier = 0.1;
  expect_the_same(spec, {{"model_type", "deepseek_v3"},
                         {"n_routed_experts", 4},
                         {"n_shared_experts", 1},
                         {"moe_intermediate_size", 24},
                         {"first_k_dense_replace", 1},
                         {"n_group", 2},
                         {"topk_group", 1},
                         {"kv_lora_rank", 16},
                         {"q_lora_rank", 24},
                         {"qk_nope_head_dim", 16},
                         {"qk_rope_head_dim", 8},
                         {"v_head_dim", 16},
                         {"rope_scaling",
                          {{"type", "yarn"},
                           {"factor", 4.0},
                           {"mscale", 1.0},
                           {"mscale_all_dim", 1.0},
                           {"original_max_position_embeddings", 32}}}});
}

TEST(HfExperts, AnExpertThatIsMissingIsNamed) {
  if (!fs::exists(kTokenizer)) GTEST_SKIP() << "no shared data";
  TinySpec spec = kBase;
  spec.expert_hidden = spec.hidden;
  Folder folder(spec, {{"model_type", "mixtral"}, {"num_local_experts", 4}});
  folder.shard.header.erase("model.layers.1.block_sparse_moe.experts.2.w3.weight");
  folder.shard.header["model.layers.1.block_sparse_moe.experts.7.w3.weight"] =
      folder.shard.header["model.layers.1.block_sparse_moe.experts.1.w3.weight"];
  folder.shard.header.erase("model.layers.1.block_sparse_moe.experts.1.w3.weight");
  folder.shard.write(folder.path / "model.safetensors");
  EXPECT_FALSE(open_folder(folder.path).has_value());
}

}  // namespace
}  // namespace ashlar::models
