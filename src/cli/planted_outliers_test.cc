// What ways of 8 bits do where activations have outliers: planted in a trained model without changing what it computes,
// by norms' weights times a hundred and the columns that meet them divided by it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "cli/calibration.h"
#include "cli/quantize_folder.h"
#include "cli/scoring.h"
#include "models/formats/new_folder.h"
#include "models/formats/safetensors_writer.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;
using models::Method;
namespace safetensors = models::safetensors;

const fs::path kModel = "../shared/data/models/stories260K/hf";
const fs::path kText = "../shared/data/text/tinystories_sample.txt";
constexpr int kWindow = 64;
constexpr std::size_t kChannels[] = {5, 40};  // one in each 32, so that scales of 32 columns do not save the others
constexpr float kFactor = 100;

// Its floats, where the tensor is one that meets a norm's channels; all of them otherwise.
std::vector<float> planted(const safetensors::Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  const auto is = [&](std::string_view part) { return tensor.name.find(part) != tensor.name.npos; };
  if (is(".input_layernorm.") || is(".post_attention_layernorm."))
    for (const std::size_t channel : kChannels) values[channel] *= kFactor;
  if (is(".q_proj.") || is(".k_proj.") || is(".v_proj.") || is(".gate_proj.") || is(".up_proj."))
    for (std::size_t row = 0; row < static_cast<std::size_t>(tensor.shape[0]); ++row)
      for (const std::size_t channel : kChannels)
        values[row * static_cast<std::size_t>(tensor.shape[1]) + channel] /= kFactor;
  return values;
}

class PlantedOutliers : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kModel) || !fs::exists(kText)) GTEST_SKIP() << "no shared data";
    fs::create_directories(folder_);
    plant();
    auto file = models::open_file(path("planted"));
    ASSERT_TRUE(file) << file.error().message;
    model_ = models::open_model(std::move(*file)).value();
    std::ifstream text(kText, std::ios::binary);
    text_ = {std::istreambuf_iterator<char>(text), {}};
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(std::string_view name) const { return folder_ / name; }

  void plant() const {
    const auto source = safetensors::Checkpoint::open(kModel).value();
    auto out = models::NewFolder::create(path("planted"), false).value();
    std::map<std::string_view, std::vector<float>> values;
    safetensors::Writer writer;
    for (const safetensors::Tensor& tensor : source.tensors()) {
      ASSERT_EQ(tensor.type, safetensors::Type::f32);
      const auto& mine = values[tensor.name] = planted(tensor);
      writer.add(tensor.name, tensor.type, tensor.shape,
                 [&]() -> Result<std::span<const std::byte>> { return std::as_bytes(std::span(mine)); });
    }
    ASSERT_TRUE(writer.write(out, models::kShardBytes, [] { return Status(); }));
    ASSERT_TRUE(out.commit());
    for (const char* name : {"config.json", "tokenizer.model", "tokenizer_config.json"})
      fs::copy_file(kModel / name, path("planted") + "/" + name);
  }

  // Scored on what no method has seen.
  double perplexity(const std::string& folder) {
    const auto loaded = models::load(folder, {}, pool_);
    EXPECT_TRUE(loaded) << loaded.error().message;
    const auto windows = cut_windows(*loaded, halves(text_).second, "the text", kWindow, 1, 1000).value();
    return score_windows(*loaded->model, windows.tokens, kWindow, models::KvType::f16,
                         [](std::int64_t, const Score&) { return Status(); })
        .value()
        .perplexity();
  }
  double perplexity_of(const models::FolderWish& wish) {
    const auto seen = calibration_windows(model_, halves(text_).first, "the text", kWindow, 128).value();
    const auto form = models::form_of(wish).value();
    const auto made =
        quantize_folder(model_, path("planted"), {.form = form, .windows = &seen, .replace = true}, path("out"), pool_);
    EXPECT_TRUE(made) << made.error().message;
    if (wish.method == Method::llm_int8) {
      EXPECT_GT(made->outliers, 0);
      EXPECT_LT(made->outliers, made->columns / 4);  // few, or it were no gain
    }
    return perplexity(path("out"));
  }

  ThreadPool pool_{2};
  models::LoadedModel model_;
  std::string text_;
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_planted_" + std::to_string(::getpid()));
};

TEST_F(PlantedOutliers, RoundingLosesWhatSmoothQuantAndLlmInt8Keep) {
  const double floats = perplexity(path("planted"));
  EXPECT_NEAR(floats, perplexity(kModel), 0.002 * floats);  // the same model still
  const double rounded = perplexity_of({.type = "W8A8"});
  EXPECT_GT(rounded, 2 * floats);
  const double smooth = perplexity_of({.type = "W8A8", .method = Method::smoothquant});
  EXPECT_LT(smooth, 1.01 * floats);
  const double kept = perplexity_of({.method = Method::llm_int8});
  EXPECT_LT(kept, 1.01 * floats);
  RecordProperty("perplexities", fmt::format("floats {:.4f}, W8A8 rtn {:.4f}, smoothquant {:.4f}, llm.int8 {:.4f}",
                                             floats, rounded, smooth, kept));
}

}  // namespace
}  // namespace ashlar::cli
