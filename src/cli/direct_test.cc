#include "cli/direct.h"

#include <gtest/gtest.h>

#include <numeric>

#include "models/loader.h"

namespace ashlar::cli {
namespace {

constexpr int kMore = 3;

struct Prompted {
  ThreadPool pool{2};
  std::unique_ptr<models::Model> model = models::load("assets/model/ashlar-assistant.gguf", {}, pool).value().model;
  Direct direct = Direct::create(*model, /*sequences=*/3, /*tokens_each=*/60, models::KvType::f16).value();
  std::vector<std::int32_t> prompt = std::vector<std::int32_t>(37), more{7, 8, 9};

  explicit Prompted(int sequence) {
    std::iota(prompt.begin(), prompt.end(), 20);
    direct.feed(sequence, prompt, 0, 16, [](int, auto) {});
  }
  std::vector<float> go_on(int sequence) {
    std::vector<float> out;
    direct.feed(sequence, more, kMore, 1,
                [&](int, std::span<const float> logits) { out.insert(out.end(), logits.begin(), logits.end()); });
    return out;
  }
};

TEST(Direct, SharedAndCopiedPromptsGiveTheLogitsOfOnesOwn) {
  Prompted own(2), shared(0), copied(1);
  const auto expected = own.go_on(2);
  shared.direct.share(0, 3);
  EXPECT_EQ(shared.go_on(0), expected);
  EXPECT_EQ(shared.go_on(2), expected) << "what another got after the prompt is its own";
  EXPECT_EQ(shared.go_on(1), expected);
  copied.direct.copy(1, 0);
  EXPECT_EQ(copied.go_on(0), expected);
  EXPECT_EQ(copied.go_on(1), expected);
}

TEST(Direct, RewindsToWhereTheSequenceWas) {
  Prompted once(0);
  const auto expected = once.go_on(0);
  once.direct.rewind(0, 37);
  EXPECT_EQ(once.go_on(0), expected);
}

}  // namespace
}  // namespace ashlar::cli
