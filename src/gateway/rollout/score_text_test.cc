#include "gateway/rollout/score_text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace ashlar::gateway {
namespace {

TEST(ScoreText, ReadsWhatJudgesWrite) {
  const std::pair<const char*, double> all[] = {{"0.8", 0.8},
                                                {" 1\n", 1},
                                                {"0", 0},
                                                {".5", 0.5},
                                                {"**0.75**", 0.75},
                                                {"Score: 0.7", 0.7},
                                                {"score=0,7.", 0.7},
                                                {"I give it 8/10.", 0.8},
                                                {"**8** / 10", 0.8},
                                                {"80 %", 0.8},
                                                {"9 out of 10", 0.9},
                                                {R"({"score": 0.25, "reason": "2 of 3 steps"})", 0.25},
                                                {"The answer names 3 of 4 towns.\nScore: 0.6", 0.6},
                                                {"Of 12 claims 9 hold.\n\n0.75\n", 0.75}};
  for (const auto& [text, score] : all) {
    const auto read = read_score(text);
    ASSERT_TRUE(read) << text;
    EXPECT_NEAR(*read, score, 1e-12) << text;
  }
}

TEST(ScoreText, DoesNotGuess) {
  for (const char* text : {"", "good", "7", "-0.5", "1.5", "120%", "11/10", "0.5 or 0.7", "0.5\n0.7", "1/0", "gpt4",
                           "v0.5", "between 0 and 1", "nan", "inf", "1e-1x", "99999999999999999999999999999999999999"})
    EXPECT_FALSE(read_score(text)) << text;
}

TEST(ScoreText, AnyBytesGiveANumberWithinOrNone) {
  std::mt19937 random(3);
  constexpr std::string_view kPieces[] = {"0",  "1", ".", "/",    "10",      "%",  "score",
                                          "\n", " ", "-", "\xff", "out of ", "e9", ","};
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (unsigned i = random() % 12; i > 0; --i) text += kPieces[random() % std::size(kPieces)];
    if (const auto read = read_score(text)) EXPECT_TRUE(*read >= 0 && *read <= 1) << text;
  }
}

TEST(ScoreText, FillsTheFormOnce) {
  EXPECT_EQ(judge_prompt("Q {question} A {answer} {x} {", "{answer}", "{question}"), "Q {answer} A {question} {x} {");
  const std::string ours = judge_prompt("", "what?", "that");
  EXPECT_NE(ours.find("what?"), ours.npos);
  EXPECT_NE(ours.find("that"), ours.npos);
  EXPECT_EQ(ours.find("{answer}"), ours.npos);
}

}  // namespace
}  // namespace ashlar::gateway
