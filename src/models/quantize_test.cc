#include "models/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/blocks.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;
using testing::HasSubstr;

const QuantizeWatch kGoOn = [](std::int64_t, std::string_view) -> Status { return {}; };

TinySpec wide() { return {.width = 256, .hidden = 512, .heads = 4, .head_dim = 64}; }

class Quantize : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(std::string_view name) const { return folder_ / name; }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  LoadedModel open(const std::string& file) {
    auto opened = gguf::File::open(file);
    CHECK(opened.has_value(), opened.error().message.c_str());
    auto model = open_model(std::move(*opened));
    CHECK(model.has_value(), model.error().message.c_str());
    return std::move(*model);
  }
  LoadedModel write(const gguf::Writer& writer) {
    CHECK(writer.write(path("in.gguf")).has_value(), "temporary files can be written");
    return open(path("in.gguf"));
  }
  // From `model` to out.gguf.
  Status make(const LoadedModel& model, std::string_view type, const QuantizeWatch& watch = kGoOn,
              const QuantizeLimits& limits = {}) {
    const auto plan = TRY(plan_quantize(model, *find_mix(type), limits));
    auto out = TRY(NewFile::create(path("out.gguf"), true));
    TRY(quantize(model, plan, pool_, watch, out));
    return out.commit();
  }
  std::string refusal(const LoadedModel& model, std::string_view type, const QuantizeLimits& limits = {}) {
    const auto made = make(model, type, kGoOn, limits);
    return made ? "fine" : made.error().message;
  }
  // Whether the model runs, and its logits are numbers.
  void expect_runs(const std::string& file) {
    const auto loaded = load(file, {}, pool_);
    ASSERT_TRUE(loaded) << loaded.error().message;
    const auto kv = loaded->model->make_kv_store(1, KvType::f16).value();
    const std::int32_t tokens[] = {3, 1, 4, 1, 5};
    const int blocks[] = {0}, rows[] = {4};
    const Step::Sequence sequences[] = {{.rows = 5, .blocks = blocks}};
    std::vector<float> logits(static_cast<std::size_t>(loaded->shape.vocabulary));
    loaded->model->forward({tokens, sequences, rows, logits}, *kv);
    for (const float logit : logits) EXPECT_TRUE(std::isfinite(logit));
    EXPECT_NE(logits[0], logits[1]);
  }

  ThreadPool pool_{2};
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_quantize_" + std::to_string(::getpid()));
};

std::vector<float> floats_of(const gguf::Tensor& tensor) {
  std::vector<float> out(tensor.data.size() / 4);
  std::memcpy(out.data(), tensor.data.data(), tensor.data.size());
  return out;
}

Type type_of(const LoadedModel& model, std::string_view tensor) { return model.file->find_tensor(tensor)->type; }

TEST_F(Quantize, EveryTypeHasTheBytesOfItsRows) {
  const LoadedModel model = write(TinyModel(wide()).writer());
  for (const std::string_view name : mix_names()) {
    SCOPED_TRACE(name);
    const auto made = make(model, name);
    ASSERT_TRUE(made) << made.error().message;
    const LoadedModel out = open(path("out.gguf"));
    EXPECT_EQ(out.facts.file_type, name);
    ASSERT_EQ(out.file->tensors().size(), model.file->tensors().size());
    for (std::size_t i = 0; i < out.file->tensors().size(); ++i) {
      const gguf::Tensor &from = model.file->tensors()[i], &to = out.file->tensors()[i];
      EXPECT_EQ(to.name, from.name);
      EXPECT_EQ(to.dims, from.dims);
      EXPECT_EQ(to.rank, from.rank);
      if (to.rank == 1) EXPECT_EQ(to.type, Type::f32);
      const auto x = floats_of(from);
      const std::size_t row = kernels::row_bytes(to.type, from.columns());
      std::vector<std::byte> expected(row * static_cast<std::size_t>(from.rows()));
      for (std::int64_t r = 0; r < from.rows(); ++r)
        kernels::quantize_row(to.type, x.data() + r * from.columns(),
                              expected.data() + static_cast<std::size_t>(r) * row, from.columns());
      EXPECT_TRUE(std::ranges::equal(to.data, expected)) << to.name;
    }
    expect_runs(path("out.gguf"));
  }
  EXPECT_EQ(files(), 2u);  // no partial file is left
}

TEST_F(Quantize, MixesGiveMoreBitsWhereOtherToolsDo) {
  const LoadedModel model = write(TinyModel(wide()).writer());
  ASSERT_TRUE(make(model, "Q4_K_M"));
  const LoadedModel untied = open(path("out.gguf"));
  EXPECT_EQ(type_of(untied, "output.weight"), Type::q6_k);
  EXPECT_EQ(type_of(untied, "token_embd.weight"), Type::q4_k);
  EXPECT_EQ(type_of(untied, "blk.1.ffn_down.weight"), Type::q6_k);
  EXPECT_EQ(type_of(untied, "blk.1.attn_q.weight"), Type::q4_k);
  TinySpec spec = wide();
  spec.tied = true;
  ASSERT_TRUE(make(write(TinyModel(spec).writer()), "Q4_K_M"));
  EXPECT_EQ(type_of(open(path("out.gguf")), "token_embd.weight"), Type::q6_k);
}

TEST_F(Quantize, RowsThatAreNotWholeBlocksGetAnotherType) {
  const LoadedModel model = write(TinyModel({.width = 64, .hidden = 144, .heads = 4, .head_dim = 16}).writer());
  const auto plan = plan_quantize(model, *find_mix("Q4_K_S"), {});
  ASSERT_TRUE(plan);
  const auto change = [&](std::string_view name) {
    return *std::ranges::find(plan->tensors, name, [](const TensorChange& c) { return c.tensor->name; });
  };
  EXPECT_EQ(change("blk.0.attn_q.weight").type, Type::q5_0);
  EXPECT_EQ(change("blk.0.attn_q.weight").wanted, Type::q4_k);
  EXPECT_EQ(change("blk.0.ffn_down.weight").type, Type::f16);  // rows of 144
  EXPECT_EQ(change("output.weight").type, Type::q8_0);
  EXPECT_EQ(change("output_norm.weight").type, Type::f32);
  EXPECT_FALSE(change("output_norm.weight").wanted);
  ASSERT_TRUE(make(model, "Q4_K_S"));
  expect_runs(path("out.gguf"));
}

TEST_F(Quantize, CarriesEveryKeyOver) {
  TinyModel tiny(wide());
  const std::vector<std::string> words{"a", "", "c\n"};
  tiny.writer().add("tokenizer.test.words", words);
  tiny.writer().add("general.file_type", std::uint32_t{0});
  tiny.writer().add("general.alignment", std::uint32_t{32});
  tiny.writer().add("general.name", "Tiny");
  CHECK(tiny.writer().write_split(path("part"), 2).has_value(), "temporary files can be written");
  const LoadedModel model = open(path("part-00002-of-00002.gguf"));
  ASSERT_TRUE(make(model, "Q5_K_M"));
  const LoadedModel out = open(path("out.gguf"));
  EXPECT_EQ(out.file->files(), 1u);
  EXPECT_EQ(out.file->find("split.count"), nullptr);
  EXPECT_EQ(out.file->get<std::int64_t>("general.file_type", -1), 17);
  EXPECT_EQ(out.file->get<std::int64_t>("general.quantization_version", -1), 2);
  for (const gguf::Key& key : model.file->keys()) {
    if (key.name.starts_with("split.") || key.name == "general.file_type" || key.name == "general.alignment") continue;
    const gguf::Value* value = out.file->find(key.name);
    ASSERT_NE(value, nullptr) << key.name;
    EXPECT_EQ(value->type, key.value.type);
    EXPECT_EQ(value->count, key.value.count);
    EXPECT_TRUE(std::ranges::equal(value->bytes, key.value.bytes)) << key.name;
  }
  expect_runs(path("out.gguf"));
}

TEST_F(Quantize, WhatIsQuantizedAlreadyIsLeftAloneUnasked) {
  TinySpec spec = wide();
  spec.type = Type::q8_0;
  const LoadedModel model = write(TinyModel(spec).writer());
  EXPECT_THAT(refusal(model, "Q4_0"), HasSubstr("tensor 'token_embd.weight' is Q8_0 already"));
  EXPECT_EQ(refusal(model, "Q4_0", {.requantize = true}), "fine");
  EXPECT_EQ(refusal(model, "F32"), "fine");  // nothing is rounded
  EXPECT_EQ(refusal(model, "Q8_0"), "fine");
  const LoadedModel out = open(path("out.gguf"));
  EXPECT_TRUE(
      std::ranges::equal(out.file->find_tensor("output.weight")->data, model.file->find_tensor("output.weight")->data));
}

TEST_F(Quantize, RefusesLargeModelsUnasked) {
  const LoadedModel model = write(TinyModel(wide()).writer());
  const auto plan = plan_quantize(model, *find_mix("Q4_0"), {.rtn_parameters = 1000});
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, Code::too_large);
  EXPECT_TRUE(plan_quantize(model, *find_mix("BF16"), {.rtn_parameters = 1000}));  // not RTN
}

TEST_F(Quantize, RefusesValuesThatATypeCannotHold) {
  const TinyModel tiny(wide());
  const std::string good = tiny.writer().bytes().value();
  const auto with = [&](std::string_view tensor, float value) {
    std::string bytes = good;
    const LoadedModel model = write(tiny.writer());
    const auto data = model.file->find_tensor(tensor)->data;
    const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
    bytes.replace(at + 400, 4, reinterpret_cast<const char*>(&value), 4);
    std::ofstream(path("bad.gguf"), std::ios::binary) << bytes;
    return open(path("bad.gguf"));
  };
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
    for (const std::string_view name : {"Q4_K_M", "F32", "F16", "Q8_0"})
      EXPECT_THAT(refusal(with("blk.1.ffn_up.weight", bad), name),
                  HasSubstr("tensor 'blk.1.ffn_up.weight' holds a value that is not finite"));
  EXPECT_THAT(refusal(with("output_norm.weight", HUGE_VALF), "Q8_0"), HasSubstr("'output_norm.weight'"));
  const LoadedModel large = with("output.weight", 1e6f);
  EXPECT_THAT(refusal(large, "Q4_0"), HasSubstr("tensor 'output.weight' holds 1e+06, which Q6_K cannot hold"));
  EXPECT_THAT(refusal(large, "F16"), HasSubstr("which F16 cannot hold"));
  EXPECT_EQ(refusal(large, "BF16"), "fine");
  fs::remove(path("out.gguf"));
  EXPECT_EQ(refusal(large, "F16").find("fine"), std::string::npos);
  EXPECT_EQ(files(), 2u);  // in.gguf and bad.gguf
}

TEST_F(Quantize, StopsWhenToldAndLeavesWhatWasThere) {
  const LoadedModel model = write(TinyModel(wide()).writer());
  std::ofstream(path("out.gguf")) << "before";
  for (int after = 0; after < 40; after += 3) {
    int looks = 0;
    std::int64_t last = 0;
    const auto made = make(model, "Q4_K_M", [&](std::int64_t done, std::string_view) -> Status {
      EXPECT_GE(done, last);
      last = done;
      if (looks++ == after) return Error{Code::cancelled, "stop"};
      return {};
    });
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, Code::cancelled);
    EXPECT_EQ(fs::file_size(path("out.gguf")), 6u);
    EXPECT_EQ(files(), 2u);
  }
}

TEST_F(Quantize, AFullDiskLeavesNothing) {
  const LoadedModel model = write(TinyModel(wide()).writer());
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small{.rlim_cur = 200'000, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string said = refusal(model, "Q8_0");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, previous);
  EXPECT_THAT(said, HasSubstr("out.gguf: cannot be written"));
  EXPECT_EQ(files(), 1u);
}

TEST_F(Quantize, ReadsNothingOfACutFile) {
  const std::string good = TinyModel(wide()).writer().bytes().value();
  for (const std::size_t size : {good.size() - 64, good.size() / 2, std::size_t{300}, std::size_t{5}}) {
    std::ofstream(path("cut.gguf"), std::ios::binary) << good.substr(0, size);
    EXPECT_FALSE(gguf::File::open(path("cut.gguf"))) << size;
  }
}

TEST(NewFile, AppearsWholeOrNotAtAll) {
  const fs::path folder = fs::temp_directory_path() / ("ashlar_new_file_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const std::string path = folder / "file";
  const auto count = [&] { return std::distance(fs::directory_iterator(folder), fs::directory_iterator()); };
  {
    auto file = NewFile::create(path, false);
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->write("half"));
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_EQ(count(), 0);
  {
    auto first = NewFile::create(path, false);
    ASSERT_TRUE(first);
    std::ofstream(path) << "meanwhile";
    EXPECT_THAT(first->commit().error().message, HasSubstr("is there already"));
  }
  EXPECT_THAT(NewFile::create(path, false).error().message, HasSubstr("is there already"));
  {
    auto file = NewFile::create(path, true);
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->write("whole"));
    ASSERT_TRUE(file->commit());
  }
  EXPECT_EQ(fs::file_size(path), 5u);
  EXPECT_EQ(count(), 1);
  EXPECT_THAT(NewFile::create(folder, true).error().message, HasSubstr("is a folder"));
  EXPECT_THAT(NewFile::create("/dev/null", true).error().message, HasSubstr("not a regular file"));
  EXPECT_EQ(NewFile::create(folder / "none" / "file", true).error().code, Code::io);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace ashlar::models
