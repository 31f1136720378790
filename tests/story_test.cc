// From a model file to text, without the server: stories260K tells what its
// publisher says it tells.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "models/loader.h"
#include "text/tokenizer.h"

namespace ashlar {
namespace {

TEST(Story, IsTheOneThatWasPublished) {
  const std::string path = "../shared/data/models/stories260K/stories260K-f32.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data";
  ThreadPool pool(1);
  auto loaded = models::load(path, {}, pool);
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto tokenizer = text::Tokenizer::create(std::move(loaded->vocabulary));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  models::Model& model = *loaded->model;
  const auto kv = model.make_kv_store(16, models::KvType::f16);
  ASSERT_TRUE(kv) << kv.error().message;

  std::vector<int> blocks;
  for (int i = 0; i < 16; ++i) blocks.push_back(i);
  std::vector<float> logits(static_cast<std::size_t>(model.shape().vocabulary));
  std::vector<std::int32_t> next = (*tokenizer)->encode("Once upon a time"), told;
  for (int position = 0; position < 200;) {
    const int rows = static_cast<int>(next.size()), last = rows - 1;
    const models::Step::Sequence sequence{.first_row = 0, .rows = rows, .first_position = position, .blocks = blocks};
    model.forward({next, {&sequence, 1}, {&last, 1}, logits}, **kv);
    position += rows;
    next = {static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin())};
    told.push_back(next.front());
  }
  EXPECT_THAT(
      (*tokenizer)->decode(told),
      testing::StartsWith(", there was a little girl named Lily. She loved to play outside in the park. One day, "
                          "she saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom "
                          "said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do."));
}

}  // namespace
}  // namespace ashlar
