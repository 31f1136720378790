// Folders of encoders against GGUF files of the same random weights.
#include "models/formats/hf_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/json_full.h"
#include "models/convert.h"
#include "models/encoder.h"
#include "models/formats/hf_folder.h"
#include "models/loader.h"
#include "models/tiny_encoder_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Stem {
  const char *ours, *theirs;
};
constexpr Stem kBert[] = {{"token_embd_norm.", "embeddings.LayerNorm."},
                          {"token_embd.", "embeddings.word_embeddings."},
                          {"token_types.", "embeddings.token_type_embeddings."},
                          {"position_embd.", "embeddings.position_embeddings."},
                          {"attn_q.", "attention.self.query."},
                          {"attn_k.", "attention.self.key."},
                          {"attn_v.", "attention.self.value."},
                          {"attn_output.", "attention.output.dense."},
                          {"attn_output_norm.", "attention.output.LayerNorm."},
                          {"ffn_up.", "intermediate.dense."},
                          {"ffn_down.", "output.dense."},
                          {"layer_output_norm.", "output.LayerNorm."}};
constexpr Stem kNomic[] = {{"token_embd_norm.", "emb_ln."},
                           {"token_embd.", "embeddings.word_embeddings."},
                           {"token_types.", "embeddings.token_type_embeddings."},
                           {"attn_qkv.", "attn.Wqkv."},
                           {"attn_output.", "attn.out_proj."},
                           {"attn_output_norm.", "norm1."},
                           {"ffn_up.", "mlp.fc11."},
                           {"ffn_gate.", "mlp.fc12."},
                           {"ffn_down.", "mlp.fc2."},
                           {"layer_output_norm.", "norm2."}};

constexpr int kTokens = 40;

class HfEncoderTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(room / "1_Pooling"); }
  void TearDown() override { fs::remove_all(room); }

  void write(const std::string& name, std::string_view text) { std::ofstream(room / name, std::ios::binary) << text; }
  void write_tokenizer() {
    Json vocabulary = Json::object(), added = Json::array();
    const char* specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (int id = 0; id < kTokens; ++id) {
      const std::string token =
          id < 5 ? specials[id] : std::string(1, static_cast<char>('a' + (id - 5) % 26)) + (id < 31 ? "" : "b");
      vocabulary[token] = id;
      if (id < 5) added.push_back({{"id", id}, {"content", token}, {"special", true}});
    }
    const auto special = [](const char* token) { return Json{{"SpecialToken", {{"id", token}, {"type_id", 0}}}}; };
    const Json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const Json json = {
        {"added_tokens", added},
        {"normalizer", {{"type", "BertNormalizer"}, {"lowercase", true}}},
        {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
        {"post_processor",
         {{"type", "TemplateProcessing"}, {"single", Json::array({special("[CLS]"), a, special("[SEP]")})}}},
        {"model",
         {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"continuing_subword_prefix", "##"}, {"vocab", vocabulary}}}};
    write("tokenizer.json", dump_json(json));
  }

  // The tensors of the GGUF file under their publisher's names. `skip`: rows of the positions before the first.
  void write_weights(const gguf::File& file, std::span<const Stem> stems, const std::string& prefix,
                     const std::string& layers, std::span<const Stem> head = {}, int skip = 0) {
    Json header = Json::object();
    std::string data;
    const auto add = [&](const std::string& name, const char* type, const Json& shape, std::string_view bytes) {
      header[name] = {{"dtype", type}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + bytes.size()}}};
      data += bytes;
    };
    for (const gguf::Tensor& tensor : file.tensors()) {
      std::string name(tensor.name), begin = prefix;
      if (name.starts_with("blk.")) {
        begin += layers + name.substr(4, name.find('.', 4) - 3);
        name = name.substr(name.find('.', 4) + 1);
      }
      for (const auto& all : {stems, head})
        for (const Stem& stem : all)
          if (name.starts_with(stem.ours)) {
            if (all.data() == head.data()) begin.clear();
            name = begin + stem.theirs + name.substr(std::strlen(stem.ours));
            break;
          }
      Json shape = Json::array();
      std::string bytes(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
      const bool positions = tensor.name == "position_embd.weight";
      if (positions) bytes.insert(0, bytes.substr(0, static_cast<std::size_t>(skip * tensor.columns()) * 4));
      for (int i = tensor.rank - 1; i >= 0; --i)
        shape.push_back(tensor.dims[static_cast<std::size_t>(i)] + (positions && i == 1 ? skip : 0));
      add(name, "F32", shape, bytes);
    }
    add(prefix + "embeddings.position_ids", "I64", Json::array({1, 2}), std::string(16, '\0'));
    if (head.empty()) add(prefix + "pooler.dense.bias", "F32", Json::array({2}), std::string(8, '\0'));
    const std::string text = dump_json(header);
    std::uint64_t size = text.size();
    std::string all(8, '\0');
    std::memcpy(all.data(), &size, 8);
    write("model.safetensors", all + text + data);
  }

  static gguf::File file_of(const gguf::Writer& writer) {
    const std::string text = writer.bytes().value();
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    return gguf::File::in_memory({bytes, bytes + text.size()}, "tiny.gguf").value();
  }
  static std::vector<float> encode(Encoder& encoder) {
    const std::vector<std::int32_t> tokens{2, 7, 9, 30, 11, 3};
    const int lengths[] = {6};
    std::vector<float> out(static_cast<std::size_t>(encoder.outputs()));
    encoder.encode({tokens, {}, lengths, out});
    return out;
  }
  // The folder computes what the file computes, as it stands and converted.
  void expect_the_same(const gguf::Writer& writer) {
    const auto expected = load(file_of(writer), {}, pool);
    ASSERT_TRUE(expected.has_value()) << expected.error().message;
    const auto folder = load(room.string(), {}, pool);
    ASSERT_TRUE(folder.has_value()) << folder.error().message;
    ASSERT_NE(folder->encoder, nullptr);
    EXPECT_EQ(folder->encoder->pooling(), expected->encoder->pooling());
    EXPECT_EQ(folder->shape.context, expected->shape.context);
    EXPECT_EQ(encode(*folder->encoder), encode(*expected->encoder));
    EXPECT_EQ(folder->vocabulary.model, "bert");
    EXPECT_TRUE(folder->vocabulary.add_bos && folder->vocabulary.add_eos);
    const fs::path out_path = room / "out.gguf";
    auto out = NewFile::create(out_path, /*replace=*/true);
    const auto facts = convert_model(room, {}, [](auto, auto, auto) { return Status(); }, *out);
    ASSERT_TRUE(facts.has_value()) << facts.error().message;
    ASSERT_TRUE(out->commit().has_value());
    const auto converted = load(out_path.string(), {}, pool);
    ASSERT_TRUE(converted.has_value()) << converted.error().message;
    EXPECT_EQ(encode(*converted->encoder), encode(*expected->encoder));
  }
  std::string refusal() {
    const auto opened = open_folder(room.string());
    return opened ? std::string() : opened.error().message;
  }
  void write_pooling(const char* mode) {
    write("modules.json", R"([{"idx":0,"path":"","type":"sentence_transformers.models.Transformer"},
      {"idx":1,"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}])");
    write("1_Pooling/config.json", Json{{mode, true}}.dump());
  }
  static Json bert_config(const char* type, const char* name) {
    return {{"model_type", type},    {"architectures", {name}}, {"num_hidden_layers", 2},
            {"hidden_size", 32},     {"intermediate_size", 48}, {"num_attention_heads", 4},
            {"vocab_size", kTokens}, {"layer_norm_eps", 1e-12}, {"max_position_embeddings", 64},
            {"type_vocab_size", 2},  {"hidden_act", "gelu"},    {"pad_token_id", 0}};
  }

  fs::path room = fs::temp_directory_path() / ("ashlar_hf_encoder_" + std::to_string(::getpid()));
  ThreadPool pool{1};
};

TEST_F(HfEncoderTest, BertWithItsPooling) {
  const TinyEncoder tiny({.pooling = 2});
  write("config.json", dump_json(bert_config("bert", "BertModel")));
  write_pooling("pooling_mode_cls_token");
  write_tokenizer();
  write_weights(file_of(tiny.writer()), kBert, "bert.", "encoder.layer.");
  expect_the_same(tiny.writer());
}

TEST_F(HfEncoderTest, RobertaCountsPositionsFromBehindItsPadding) {
  const TinyEncoder tiny({.types = 1, .tanh_gelu = true});
  Json config = bert_config("xlm-roberta", "XLMRobertaModel");
  config["max_position_embeddings"] = 66;
  config["pad_token_id"] = 1;
  config["type_vocab_size"] = 1;
  config["hidden_act"] = "gelu_new";
  write("config.json", dump_json(config));
  write_pooling("pooling_mode_mean_tokens");
  write_tokenizer();
  write_weights(file_of(tiny.writer()), kBert, "roberta.", "encoder.layer.", {}, 2);
  expect_the_same(tiny.writer());
}

TEST_F(HfEncoderTest, ClassifiersRank) {
  const TinyEncoder tiny({.pooling = 4, .dense = true, .labels = 1});
  Json config = bert_config("bert", "BertForSequenceClassification");
  config["id2label"] = {{"0", "LABEL_0"}};
  write("config.json", dump_json(config));
  write_tokenizer();
  constexpr Stem kPooler[] = {{"cls.output.", "classifier."}, {"cls.", "bert.pooler.dense."}};
  write_weights(file_of(tiny.writer()), kBert, "bert.", "encoder.layer.", kPooler);
  expect_the_same(tiny.writer());
  constexpr Stem kRobertas[] = {{"cls.output.", "classifier.out_proj."}, {"cls.", "classifier.dense."}};
  write_weights(file_of(tiny.writer()), kBert, "bert.", "encoder.layer.", kRobertas);
  expect_the_same(tiny.writer());
}

TEST_F(HfEncoderTest, NomicsBert) {
  const TinyEncoder tiny({.architecture = "nomic-bert", .fused = true, .biases = false});
  const Json config = {{"model_type", "nomic_bert"},
                       {"architectures", {"NomicBertModel"}},
                       {"n_layer", 2},
                       {"n_embd", 32},
                       {"n_inner", 48},
                       {"n_head", 4},
                       {"vocab_size", kTokens},
                       {"layer_norm_epsilon", 1e-12},
                       {"n_positions", 64},
                       {"type_vocab_size", 2},
                       {"activation_function", "swiglu"},
                       {"rotary_emb_base", 1000},
                       {"rotary_emb_fraction", 1.0},
                       {"rotary_emb_scale_base", nullptr}};
  write("config.json", dump_json(config));
  write_tokenizer();
  write_weights(file_of(tiny.writer()), kNomic, "", "encoder.layers.");
  expect_the_same(tiny.writer());
  for (const auto& [key, value] : {std::pair{"moe_every_n_layers", Json(2)},
                                   {"activation_function", Json("gelu")},
                                   {"rotary_emb_fraction", Json(0.5)}}) {
    Json other = config;
    other[key] = value;
    write("config.json", dump_json(other));
    EXPECT_THAT(refusal(), HasSubstr(key));
  }
}

TEST_F(HfEncoderTest, RefusesWhatItWouldComputeWrongly) {
  const TinyEncoder tiny({});
  const Json config = bert_config("bert", "BertModel");
  write_tokenizer();
  write_weights(file_of(tiny.writer()), kBert, "", "encoder.layer.");
  const auto with = [&](const char* key, Json value) {
    Json other = config;
    other[key] = std::move(value);
    write("config.json", dump_json(other));
    return refusal();
  };
  EXPECT_THAT(with("position_embedding_type", "relative_key"), HasSubstr("position_embedding_type"));
  EXPECT_THAT(with("hidden_act", "relu"), HasSubstr("hidden_act"));
  EXPECT_THAT(with("num_attention_heads", 5), HasSubstr("num_attention_heads"));
  EXPECT_THAT(with("hidden_size", -1), HasSubstr("hidden_size"));
  EXPECT_THAT(with("vocab_size", 7), HasSubstr("tokens"));
  EXPECT_EQ(with("vocab_size", kTokens), "");
  write_pooling("pooling_mode_max_tokens");
  EXPECT_THAT(refusal(), HasSubstr("pooling_mode_max_tokens"));
  for (const auto& [mode, what] : {std::pair{Json("lasttoken"), ""},
                                   {Json("cls"), ""},
                                   {Json::array({"mean"}), ""},
                                   {Json("max"), "pooling_mode"},
                                   {Json(3), "pooling_mode"}}) {
    write("1_Pooling/config.json", Json{{"pooling_mode", mode}, {"include_prompt", true}}.dump());
    const std::string said = refusal();
    EXPECT_THAT(said, HasSubstr(what)) << mode;
    EXPECT_EQ(said.empty(), *what == 0) << said;
  }
  write("modules.json", R"([{"path":"0_Transformer","type":"sentence_transformers.models.Transformer"}])");
  EXPECT_THAT(refusal(), HasSubstr("\"path\" puts the model into '0_Transformer'"));
  write("modules.json", R"([{"path":"../x","type":"sentence_transformers.models.Pooling"}])");
  EXPECT_THAT(refusal(), HasSubstr("path"));
  write("modules.json", R"([{"path":"2_Dense","type":"sentence_transformers.models.Dense"}])");
  EXPECT_THAT(refusal(), HasSubstr("Dense"));
}

TEST_F(HfEncoderTest, SaysWhatAFolderIsThatIsNoModel) {
  EXPECT_THAT(refusal(), HasSubstr("there is no config.json"));
  write("x.gguf", "");
  EXPECT_THAT(refusal(), HasSubstr("give the GGUF file itself"));
  write("params.json", "{}");
  EXPECT_THAT(refusal(), HasSubstr("a publisher's own format"));
  write("adapter_config.json", "{}");
  EXPECT_THAT(refusal(), HasSubstr("this is an adapter"));
}

TEST_F(HfEncoderTest, ReadsAPublishedFolderWithoutItsWeights) {
  const fs::path minilm = "../shared/data/tokenizers/hf/all-minilm-l6-v2/all-MiniLM-L6-v2";
  if (!fs::exists(minilm)) GTEST_SKIP() << "no shared data";
  const auto encoder = open_hf_encoder(minilm.string());
  ASSERT_TRUE(encoder.has_value()) << encoder.error().message;
  ASSERT_TRUE(encoder->has_value());
  const HfEncoder& is = **encoder;
  EXPECT_EQ(is.config.shape.width, 384);
  EXPECT_EQ(is.config.shape.head_dim, 32);
  EXPECT_EQ(is.config.shape.context, 512);
  EXPECT_EQ(is.config.pooling, Pooling::mean);
  EXPECT_EQ(is.config.encoder->token_types, 2);
  EXPECT_FALSE(is.classifies);
}

}  // namespace
}  // namespace ashlar::models
