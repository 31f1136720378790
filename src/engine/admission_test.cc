#include "engine/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/pace.h"

namespace ashlar::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

const Clock::time_point kNow{seconds(1000)};
constexpr auto kNever = Clock::time_point::max();

// 1 ms for a prompt token, 10 ms for a decode, answers of 100 tokens.
Pace measured() {
  Pace pace;
  pace.step(kNow, 0.010, 0, 4);
  pace.step(kNow, 0.110, 100, 4);
  pace.ended(100);
  return pace;
}

TEST(Pace, SeparatesPromptsFromDecodes) {
  const Pace pace = measured();
  EXPECT_DOUBLE_EQ(pace.seconds_per_decode(), 0.010);
  EXPECT_DOUBLE_EQ(pace.seconds_per_prompt_token(), 0.001);
  EXPECT_DOUBLE_EQ(pace.tokens_per_answer(), 100);
}

TEST(Pace, ThroughputIsOfTheLastSeconds) {
  Pace pace;
  for (int second = 0; second < 20; ++second) pace.step(kNow + seconds(second), 0.1, 50, 10);
  EXPECT_DOUBLE_EQ(pace.throughput(kNow + seconds(20)).prompt, 50);
  EXPECT_DOUBLE_EQ(pace.throughput(kNow + seconds(20)).answer, 10);
  EXPECT_DOUBLE_EQ(pace.throughput(kNow + seconds(23)).answer, 4);
  EXPECT_DOUBLE_EQ(pace.throughput(kNow + seconds(60)).answer, 0);
}

TEST(Admission, UrgentRequestsHaveAQueueOfTheirOwn) {
  Admission admission({.max_queued_requests = 2, .max_queued_tokens = 100});
  const Pace pace;
  const auto full = [&](int priority) {
    return admission.refuse({.priority = priority, .tokens = 50}, kNever, kNow, pace).has_value();
  };
  admission.enter({.priority = 0, .tokens = 40});
  admission.enter({.priority = 3, .tokens = 40});
  EXPECT_TRUE(full(0));
  EXPECT_FALSE(full(-1));
  admission.enter({.priority = -1, .tokens = 60});
  EXPECT_TRUE(full(-1)) << "too many tokens";
  EXPECT_TRUE(full(-7)) << "all that are urgent are in the same queue";
  admission.leave({.priority = 3, .tokens = 40});
  EXPECT_FALSE(full(0)) << "which takes nothing from the others";
}

TEST(Admission, RefusesWhenTheQueueIsFull) {
  Admission admission({.max_queued_requests = 2, .max_queued_tokens = 100});
  const Pace pace;
  admission.enter({.tokens = 40});
  EXPECT_FALSE(admission.refuse({.tokens = 60}, kNever, kNow, pace));
  const auto tokens = admission.refuse({.tokens = 61}, kNever, kNow, pace);
  ASSERT_TRUE(tokens);
  EXPECT_EQ(tokens->error.code, Code::exhausted);
  EXPECT_THAT(tokens->error.message, HasSubstr("100"));
  EXPECT_EQ(tokens->retry_after, seconds(1));
  admission.enter({.tokens = 1});
  const auto requests = admission.refuse({.tokens = 1}, kNever, kNow, pace);
  ASSERT_TRUE(requests);
  EXPECT_EQ(requests->error.code, Code::exhausted);
  admission.leave({.tokens = 1});
  EXPECT_FALSE(admission.refuse({.tokens = 1}, kNever, kNow, pace));
}

TEST(Admission, OneRequestMayBeLargerThanTheQueue) {
  Admission admission({.max_queued_tokens = 100});
  EXPECT_FALSE(admission.refuse({.tokens = 500}, kNever, kNow, {})) << "or it could never be served";
}

TEST(Admission, WaitsForThePromptsAheadOfItsClass) {
  Admission admission({});
  const Pace pace = measured();
  EXPECT_EQ(admission.wait(0, pace).count(), 0);
  admission.occupy({.running = 1, .prompt_backlog = 500});
  admission.enter({.priority = 0, .tokens = 1000});
  admission.enter({.priority = 5, .tokens = 4000});
  EXPECT_NEAR(admission.wait(0, pace).count(), 1.5, 1e-9);
  EXPECT_NEAR(admission.wait(5, pace).count(), 5.5, 1e-9);
  EXPECT_NEAR(admission.wait(-1, pace).count(), 0.5, 1e-9);
}

TEST(Admission, CountsOnThePrefixCacheAsFarAsItHelpedLately) {
  Admission admission({});
  Pace pace = measured();
  admission.occupy({.running = 1, .prompt_backlog = 500});
  admission.enter({.tokens = 1000});
  for (int i = 0; i < 100; ++i) pace.began(500, 400);
  EXPECT_NEAR(pace.cached_share(), 0.8, 0.01);
  EXPECT_NEAR(admission.wait(0, pace).count(), 0.5 + 0.2, 0.01) << "what runs has had its share already";
  for (int i = 0; i < 100; ++i) pace.began(500, 0);
  EXPECT_NEAR(admission.wait(0, pace).count(), 1.5, 0.01);
}

TEST(Admission, WaitsForAPlace) {
  Admission admission({.max_sequences = 4});
  const Pace pace = measured();
  admission.occupy({.running = 4});
  // An answer takes 1 s; four end in that time.
  EXPECT_NEAR(admission.wait(0, pace).count(), 0.25, 1e-9);
  admission.enter({.tokens = 0, .sequences = 3});
  EXPECT_NEAR(admission.wait(0, pace).count(), 1.0, 1e-9);
}

TEST(Admission, RefusesWhatCannotBeginInTime) {
  Admission admission({});
  const Pace pace = measured();
  admission.enter({.tokens = 5000});
  EXPECT_FALSE(admission.refuse({.tokens = 1}, kNow + seconds(6), kNow, pace));
  const auto late = admission.refuse({.tokens = 1}, kNow + seconds(2), kNow, pace);
  ASSERT_TRUE(late);
  EXPECT_EQ(late->error.code, Code::unavailable);
  EXPECT_EQ(late->retry_after, seconds(3));
  EXPECT_THAT(late->error.message, HasSubstr("5.0 s"));

  Admission bounded({.max_wait = milliseconds(1000)});
  bounded.enter({.tokens = 5000});
  EXPECT_TRUE(bounded.refuse({.tokens = 1}, kNever, kNow, pace));
  EXPECT_FALSE(bounded.refuse({.tokens = 1}, kNever, kNow, {})) << "nothing is measured yet";
}

}  // namespace
}  // namespace ashlar::engine
