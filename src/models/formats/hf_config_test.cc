#include "models/formats/hf_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/json_full.h"

namespace ashlar::models {
namespace {

using testing::ElementsAre;
using testing::FloatNear;
using testing::HasSubstr;

// A small model, with the members of `patch` set over its own.
std::string config(std::string_view type, std::string_view class_name, std::string_view patch = "{}") {
  Json json = parse_json(R"({"hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,
    "num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":5e5,
    "bos_token_id":1,"eos_token_id":2,"hidden_act":"silu"})")
                  .value();
  json["model_type"] = type;
  json["architectures"] = Json::array({class_name});
  const Json over = parse_json(patch).value();
  for (const auto& [name, value] : over.items()) json[name] = value;
  return dump_json(json);
}
std::string llama(std::string_view patch = "{}") { return config("llama", "LlamaForCausalLM", patch); }

HfConfig read(const std::string& text, std::string_view generation = "") {
  auto found = read_hf_config(text, generation, "m");
  EXPECT_TRUE(found) << found.error().message;
  return found ? *found : HfConfig();
}

std::string refusal(const std::string& text, std::string_view generation = "") {
  const auto found = read_hf_config(text, generation, "m");
  return found ? "fine" : found.error().message;
}

TEST(HfConfig, ReadsLlama) {
  const HfConfig c = read(llama());
  const Shape& s = c.config.shape;
  EXPECT_EQ(s.architecture, "llama");
  EXPECT_EQ(s.layers, 4);
  EXPECT_EQ(s.width, 64);
  EXPECT_EQ(s.hidden, 96);
  EXPECT_EQ(s.heads, 4);
  EXPECT_EQ(s.kv_heads, 2);
  EXPECT_EQ(s.head_dim, 16);
  EXPECT_EQ(s.vocabulary, 100);
  EXPECT_EQ(s.context, 512);
  EXPECT_EQ(s.sliding_window, 0);
  EXPECT_EQ(c.config.rope.dims, 16);
  EXPECT_EQ(c.config.rope.base, 5e5);
  EXPECT_EQ(c.config.rope.layout, kernels::RopeLayout::halves);
  EXPECT_EQ(c.config.rope.scaling, RopeConfig::Scaling::none);
  EXPECT_FLOAT_EQ(c.config.rms_epsilon, 1e-5f);
  EXPECT_FALSE(c.tied_embedding);
  EXPECT_EQ(c.quantization, "");
  EXPECT_EQ(c.bos, 1);
  EXPECT_THAT(c.eos, ElementsAre(2));
  EXPECT_TRUE(c.rope_factors.empty());
}

TEST(HfConfig, NullCountsAsAbsent) {
  const HfConfig c = read(llama(
      R"({"num_key_value_heads":null,"head_dim":null,"rope_scaling":null,"rope_theta":null,"bos_token_id":null,"eos_token_id":null,"tie_word_embeddings":true})"));
  EXPECT_EQ(c.config.shape.kv_heads, 4);
  EXPECT_EQ(c.config.rope.base, 10000);
  EXPECT_EQ(c.bos, std::nullopt);
  EXPECT_TRUE(c.eos.empty());
  EXPECT_TRUE(c.tied_embedding);
}

TEST(HfConfig, FamiliesDifferInWindowAndHeads) {
  EXPECT_EQ(read(config("mistral", "MistralForCausalLM")).config.shape.architecture, "llama");
  const auto window = [](std::string_view type, std::string_view class_name, std::string_view patch) {
    return read(config(type, class_name, patch)).config.shape.sliding_window;
  };
  EXPECT_EQ(window("mistral", "MistralForCausalLM", "{}"), 4096);
  EXPECT_EQ(window("mistral", "MistralForCausalLM", R"({"sliding_window":null})"), 0);
  EXPECT_EQ(window("mistral", "MistralForCausalLM", R"({"sliding_window":128})"), 128);
  EXPECT_EQ(window("qwen2", "Qwen2ForCausalLM", R"({"sliding_window":128})"), 0);
  const std::string_view on = R"({"use_sliding_window":true,"sliding_window":128)";
  EXPECT_EQ(window("qwen2", "Qwen2ForCausalLM", fmt::format("{},\"max_window_layers\":0}}", on)), 128);
  EXPECT_EQ(window("qwen2", "Qwen2ForCausalLM", fmt::format("{},\"max_window_layers\":4}}", on)), 0);
  const auto layers = [&](std::string_view a, std::string_view b) {
    return fmt::format(R"({},"layer_types":["{}","{}","{}","{}"]}})", on, a, a, a, b);
  };
  EXPECT_EQ(window("qwen3", "Qwen3ForCausalLM", layers("full_attention", "full_attention")), 0);
  EXPECT_EQ(window("qwen3", "Qwen3ForCausalLM", layers("sliding_attention", "sliding_attention")), 128);
  EXPECT_THAT(refusal(config("qwen3", "Qwen3ForCausalLM", layers("full_attention", "sliding_attention"))),
              HasSubstr("\"sliding_window\" holds for 1 of 4 layers; all or none are supported"));
  EXPECT_THAT(refusal(config("qwen3", "Qwen3ForCausalLM", layers("full_attention", "linear_attention"))),
              HasSubstr("full_attention and sliding_attention are supported"));
  EXPECT_EQ(read(config("qwen3", "Qwen3ForCausalLM")).config.shape.head_dim, 128);
  EXPECT_EQ(read(config("qwen3", "Qwen3ForCausalLM", R"({"head_dim":64})")).config.shape.head_dim, 64);
}

TEST(HfConfig, LinearScaling) {
  const RopeConfig r = read(llama(R"({"rope_scaling":{"type":"linear","factor":4.0}})")).config.rope;
  EXPECT_EQ(r.scaling, RopeConfig::Scaling::linear);
  EXPECT_EQ(r.factor, 4);
}

// Llama 3.1's own numbers, from the published formula in another language.
TEST(HfConfig, Llama3ScalingBecomesFactors) {
  const HfConfig c = read(llama(
      R"({"head_dim":128,"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
          "high_freq_factor":4.0,"original_max_position_embeddings":8192}})"));
  ASSERT_EQ(c.rope_factors.size(), 64u);
  EXPECT_EQ(c.config.rope.scaling, RopeConfig::Scaling::none);
  const std::pair<std::size_t, float> expected[] = {{0, 1.f},           {28, 1.f},          {29, 1.207483871f},
                                                    {30, 1.553414628f}, {31, 2.026313206f}, {34, 5.257326589f},
                                                    {35, 8.f},          {36, 8.f},          {63, 8.f}};
  for (const auto& [pair, factor] : expected) EXPECT_THAT(c.rope_factors[pair], FloatNear(factor, 1e-5f)) << pair;
}

TEST(HfConfig, Yarn) {
  const std::string qwen =
      config("qwen2", "Qwen2ForCausalLM",
             R"({"rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":512}})");
  const HfConfig c = read(qwen);
  EXPECT_EQ(c.config.rope.scaling, RopeConfig::Scaling::yarn);
  EXPECT_EQ(c.config.rope.original_context, 512);
  EXPECT_EQ(c.config.rope.beta_fast, 32);
  EXPECT_NEAR(c.config.rope.attention_factor, 1, 1e-12);
  EXPECT_EQ(c.config.shape.context, 2048);
  // Given, it is the whole factor.
  const RopeConfig r =
      read(llama(R"({"rope_parameters":{"rope_type":"yarn","rope_theta":1e6,"factor":4,"attention_factor":1.5}})"))
          .config.rope;
  EXPECT_NEAR(r.attention_factor * (1 + 0.1 * std::log(4.0)), 1.5, 1e-12);
  EXPECT_EQ(r.base, 1e6);
  EXPECT_EQ(r.original_context, 512);
}

TEST(HfConfig, DynamicScalingWorksBeyondTheContextAlone) {
  const HfConfig c = read(llama(R"({"rope_scaling":{"type":"dynamic","factor":8}})"));
  EXPECT_EQ(c.config.rope.scaling, RopeConfig::Scaling::none);
  EXPECT_EQ(c.config.shape.context, 512);
  const std::string_view shorter =
      R"({"rope_parameters":{"rope_type":"dynamic","factor":8,"original_max_position_embeddings":256}})";
  EXPECT_EQ(read(llama(shorter)).config.shape.context, 256);
  EXPECT_THAT(refusal(llama(R"({"rope_scaling":{"type":"dynamic","alpha":1000}})")), HasSubstr("alpha"));
}

TEST(HfConfig, YarnsLengthByItsTwoFactors) {
  const RopeConfig r =
      read(llama(R"({"rope_scaling":{"type":"yarn","factor":4,"mscale":0.7,"mscale_all_dim":0.2}})")).config.rope;
  const double expected = (1 + 0.07 * std::log(4.0)) / (1 + 0.02 * std::log(4.0));
  EXPECT_NEAR(r.attention_factor * (1 + 0.1 * std::log(4.0)), expected, 1e-12);
  // One alone says nothing.
  const RopeConfig one = read(llama(R"({"rope_scaling":{"type":"yarn","factor":4,"mscale":1}})")).config.rope;
  EXPECT_NEAR(one.attention_factor, 1, 1e-12);
}

TEST(HfConfig, RopeOfEachKindOfLayer) {
  const HfConfig c = read(config("gemma3_text", "Gemma3ForCausalLM", R"({"hidden_act":null,"head_dim":16,
      "rope_parameters":{"full_attention":{"rope_type":"linear","factor":8,"rope_theta":1e6},
                         "sliding_attention":{"rope_type":"default","rope_theta":20000}}})"));
  EXPECT_EQ(c.config.rope.scaling, RopeConfig::Scaling::linear);
  EXPECT_EQ(c.config.rope.base, 1e6);
  ASSERT_TRUE(c.config.window_rope.has_value());
  EXPECT_EQ(c.config.window_rope->base, 20000);
  EXPECT_EQ(c.config.window_rope->scaling, RopeConfig::Scaling::none);
}

TEST(HfConfig, KnowsWhatAClassIsFor) {
  const auto task = [](std::string_view type, std::string_view name) { return read(config(type, name)).task; };
  EXPECT_EQ(task("qwen3", "Qwen3ForCausalLM"), HfTask::generate);
  EXPECT_EQ(task("qwen3", "Qwen3Model"), HfTask::embed);
  EXPECT_EQ(task("mistral", "MistralModel"), HfTask::embed);
  EXPECT_EQ(task("qwen2", "Qwen2ForSequenceClassification"), HfTask::classify);
  const HfConfig c = read(config("llama", "LlamaForSequenceClassification", R"({"id2label":{"0":"no","1":"yes"}})"));
  EXPECT_THAT(c.config.labels, ElementsAre("no", "yes"));
  EXPECT_THAT(refusal(config("qwen3", "Qwen3ForTokenClassification")),
              HasSubstr("not supported: 'Qwen3ForTokenClassification (qwen3)'"));
  EXPECT_THAT(refusal(config("qwen2", "Qwen2ForCausalLM", R"({"is_causal":false})")),
              HasSubstr("\"is_causal\" is false"));
}

TEST(HfConfig, ATextModelWithinAnother) {
  const HfConfig c = read(R"({"model_type":"mistral3","architectures":["Mistral3ForConditionalGeneration"],
      "text_config":{"model_type":"mistral","head_dim":64,"num_hidden_layers":2,"sliding_window":null},
      "vision_config":{"model_type":"pixtral"},"dtype":"bfloat16"})");
  EXPECT_TRUE(c.nested);
  EXPECT_FALSE(c.tied_embedding);
  EXPECT_EQ(c.config.shape.kv_heads, 8);  // as the library fills it in
  EXPECT_EQ(c.config.shape.width, 4096);
  EXPECT_THAT(refusal(R"({"model_type":"llava","architectures":["LlavaForConditionalGeneration"],"text_config":{}})"),
              HasSubstr("not supported: 'LlavaForConditionalGeneration (llava)'"));
}

TEST(HfConfig, RefusesRopeThatIsNotComputed) {
  const auto scaling = [](std::string_view text) {
    return refusal(llama(fmt::format(R"({{"rope_scaling":{}}})", text)));
  };
  EXPECT_THAT(scaling(R"({"type":"other","factor":2})"),
              HasSubstr("\"rope_scaling.rope_type\" is 'other'; default, linear, dynamic, llama3, yarn and longrope"));
  EXPECT_THAT(scaling(R"({"type":"linear"})"), HasSubstr("\"rope_scaling.factor\" is missing"));
  EXPECT_THAT(scaling(R"({"type":"linear","factor":0})"), HasSubstr("\"rope_scaling.factor\" is not a number"));
  EXPECT_THAT(scaling(R"({"type":"yarn","factor":0.5})"), HasSubstr("at least 1 is expected"));
  EXPECT_THAT(scaling(R"({"type":"llama3","factor":2,"low_freq_factor":4,"high_freq_factor":4})"),
              HasSubstr("is not above low_freq_factor"));
  EXPECT_THAT(scaling("[1]"), HasSubstr("\"rope_scaling\" is not an object"));
  EXPECT_THAT(refusal(llama(R"({"rope_theta":1})")), HasSubstr("\"rope_theta\" is 1; more than 1"));
  EXPECT_THAT(refusal(llama(R"({"partial_rotary_factor":0.5})")), HasSubstr("is not 1, which is not supported"));
}

TEST(HfConfig, RefusesOtherArchitecturesByName) {
  const std::string supported = "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, ";
  EXPECT_THAT(refusal(config("phi", "PhiForCausalLM")),
              HasSubstr("m/config.json: not supported: 'PhiForCausalLM (phi)'; " + supported));
  EXPECT_THAT(refusal(llama(R"({"architectures":["LlamaForQuestionAnswering"]})")), HasSubstr("not supported"));
  EXPECT_THAT(refusal(llama(R"({"model_type":"jamba","architectures":null})")),
              HasSubstr("not supported: 'jamba'; " + supported));
  EXPECT_EQ(refusal(llama(R"({"architectures":null})")), "fine");
  EXPECT_EQ(refusal(llama(R"({"model_type":null})")), "fine");
  EXPECT_THAT(refusal(llama(R"({"model_type":null,"architectures":null})")), HasSubstr("\"model_type\" is missing"));
  EXPECT_THAT(refusal(llama(R"({"architectures":[]})")), HasSubstr("\"architectures\" is not a list of names"));
}

TEST(HfConfig, RefusesImpossibleNumbers) {
  EXPECT_THAT(refusal(llama(R"({"num_hidden_layers":0})")),
              HasSubstr("\"num_hidden_layers\" is 0; 1 to 1024 are possible"));
  EXPECT_THAT(refusal(llama(R"({"hidden_size":-1})")), HasSubstr("\"hidden_size\" is -1"));
  EXPECT_THAT(refusal(llama(R"({"hidden_size":18446744073709551615})")), HasSubstr("is 9223372036854775807; 1 to"));
  EXPECT_THAT(refusal(llama(R"({"hidden_size":64.0})")), HasSubstr("\"hidden_size\" is not a whole number"));
  EXPECT_THAT(refusal(llama(R"({"vocab_size":null})")), HasSubstr("\"vocab_size\" is missing"));
  EXPECT_THAT(refusal(llama(R"({"num_key_value_heads":3})")), HasSubstr("is 3, which does not divide 4 heads"));
  EXPECT_THAT(refusal(llama(R"({"hidden_size":66})")), HasSubstr("is 4, which does not divide the width 66"));
  EXPECT_THAT(refusal(llama(R"({"head_dim":12})")), HasSubstr("multiples of 8 up to 256"));
  EXPECT_THAT(refusal(llama(R"({"rms_norm_eps":0})")), HasSubstr("\"rms_norm_eps\" is not a number from"));
  EXPECT_THAT(refusal(llama(R"({"rms_norm_eps":1e300})")), HasSubstr("\"rms_norm_eps\" is not a number from"));
  EXPECT_THAT(refusal(llama(R"({"hidden_act":"gelu"})")), HasSubstr("\"hidden_act\" is 'gelu'; silu is supported"));
  EXPECT_THAT(refusal(llama(R"({"attention_bias":true})")), HasSubstr("\"attention_bias\" is true"));
  EXPECT_THAT(refusal(llama(R"({"eos_token_id":[2,100]})")), HasSubstr("\"eos_token_id\" is not of tokens below 100"));
  EXPECT_THAT(refusal(llama(R"({"bos_token_id":100})")), HasSubstr("\"bos_token_id\" is 100; 0 to 99"));
  EXPECT_THAT(refusal(llama(R"({"quantization_config":{}})")),
              HasSubstr("\"quantization_config.quant_method\" is missing"));
  EXPECT_THAT(refusal("{"), HasSubstr("m/config.json: JSON: byte"));
  EXPECT_THAT(refusal("[]"), HasSubstr("m/config.json: not a JSON object"));
}

TEST(HfConfig, EveryTruncationIsAnError) {
  const std::string good = llama(R"({"rope_scaling":{"type":"linear","factor":4.0}})");
  for (std::size_t size = 0; size < good.size(); ++size) EXPECT_NE(refusal(good.substr(0, size)), "fine") << size;
}

TEST(HfConfig, GenerationConfigGoesFirst) {
  const HfConfig c = read(llama(), R"({"do_sample":true,"temperature":0.6,"top_p":0.9,"top_k":20,
      "repetition_penalty":1.05,"eos_token_id":[7,8],"bos_token_id":5})");
  EXPECT_THAT(c.eos, ElementsAre(7, 8));
  EXPECT_EQ(c.bos, 5);
  EXPECT_EQ(c.sampling.sample, true);
  EXPECT_EQ(c.sampling.temperature, 0.6);
  EXPECT_EQ(c.sampling.top_p, 0.9);
  EXPECT_EQ(c.sampling.top_k, 20);
  EXPECT_EQ(c.sampling.min_p, std::nullopt);
  EXPECT_EQ(c.sampling.repetition_penalty, 1.05);
  EXPECT_THAT(read(llama(), "{}").eos, ElementsAre(2));
  EXPECT_EQ(read(llama(), R"({"top_k":-1,"suppress_tokens":[],"max_new_tokens":20})").sampling.top_k, -1);
  EXPECT_THAT(refusal(llama(), R"({"top_p":2})"),
              HasSubstr("m/generation_config.json: \"top_p\" is not a number from 0 to 1"));
  EXPECT_THAT(refusal(llama(), "{"), HasSubstr("m/generation_config.json: JSON: byte"));
}

TEST(HfConfig, ReadsPublishedFolders) {
  const std::string configs = "../shared/data/configs/";
  if (!std::filesystem::exists(configs)) GTEST_SKIP() << "no shared data";
  const auto genz = open_hf_config(configs + "gptq_genz70b");
  ASSERT_TRUE(genz) << genz.error().message;
  EXPECT_EQ(genz->config.shape.layers, 80);
  EXPECT_EQ(genz->config.shape.kv_heads, 8);
  EXPECT_EQ(genz->config.shape.head_dim, 128);
  EXPECT_EQ(genz->quantization, "gptq");
  const auto wizard = open_hf_config(configs + "gptq_wizard_vicuna30b");
  ASSERT_TRUE(wizard) << wizard.error().message;
  EXPECT_EQ(wizard->config.shape.kv_heads, 52);
  EXPECT_EQ(wizard->config.shape.context, 2048);
  const std::pair<const char*, const char*> others[] = {{"gptq_phi2", "not supported: 'PhiForCausalLM (phi)'"},
                                                        {"molmo_nf4", "not supported: 'MolmoForCausalLM (molmo)'"},
                                                        {"qwen_vl_int4", "not supported: 'QWenLMHeadModel (qwen)'"}};
  for (const auto& [folder, what] : others) {
    const auto other = open_hf_config(configs + folder);
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code, Code::unsupported);
    EXPECT_THAT(other.error().message, HasSubstr(what));
  }
  EXPECT_EQ(open_hf_config(configs + "compressed_tensors").error().code, Code::not_found);
}

}  // namespace
}  // namespace ashlar::models
