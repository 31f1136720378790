#include "gateway/upstreams/plain_chunk.h"

#include <gtest/gtest.h>

#include <string>

namespace ashlar::gateway {
namespace {

constexpr const char* kPiece =
    R"({"id":"c","model":"m","choices":[{"index":1,"delta":{"content": "one"},"logprobs":null,"finish_reason":null}]})";

std::string with(std::string text) {
  std::string out = kPiece;
  return out.replace(out.find("one"), 3, text);
}

PlainChunk learned(const std::string& event) {
  PlainChunk out;
  if (const auto chunk = read_chunk(event)) out.learn(event, *chunk);
  return out;
}

TEST(PlainChunk, ReadsTheTextOfEventsThatAreOtherwiseAlike) {
  const PlainChunk chunk = learned(kPiece);
  for (const auto& [written, meant] : {std::pair{" two", " two"},
                                       {"", ""},
                                       {R"(\"a\"\\\n)", "\"a\"\\\n"},
                                       {"中文", "中文"},
                                       {R"(\u4e2d\ud83d\ude00)", "中😀"}}) {
    const auto text = chunk.read(with(written));
    ASSERT_TRUE(text) << written;
    EXPECT_EQ(text->text, meant);
    EXPECT_EQ(text->choice, 1);
  }
}

TEST(PlainChunk, LeavesWhatDiffersToTheParser) {
  const PlainChunk chunk = learned(kPiece);
  // Another member, within the place of the text; a broken text; bytes that are no UTF-8; a line break.
  for (const char* inner :
       {R"(a","content":"b)", R"(a"},"x":{"y":"b)", R"(\)", R"(\q)", R"(\ud83d)", "\xff", "a\nb", "\""})
    EXPECT_FALSE(chunk.read(with(inner))) << inner;
  std::string other = kPiece;
  EXPECT_FALSE(chunk.read(other.replace(other.find("null}"), 4, R"("stop")")));
  EXPECT_FALSE(chunk.read(""));
  EXPECT_FALSE(chunk.read(std::string_view(kPiece).substr(0, 60)));
}

TEST(PlainChunk, LearnsOnlyFromWhatSaysTextAlone) {
  for (const char* event :
       {R"({"choices":[{"delta":{"content":"a","tool_calls":[{"index":0}]}}]})",
        R"({"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]})",
        R"({"choices":[{"delta":{"content":"a"},"logprobs":{"content":[]}}]})",
        R"({"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}})",
        R"({"choices":[{"delta":{"content":"a"}},{"delta":{}}]})",
        R"({"error":{"x":1},"choices":[{"delta":{"content":"a"}}]})", R"({"choices":[{"delta":{"content":null}}]})",
        R"({"choices":[{"delta":{"content":["a"]}}]})", R"({"content":"b","choices":[{"delta":{"content":"a"}}]})",
        R"({"x":"content","choices":[{"delta":{"content":"a"}}]})", R"({"choices":[]})", R"({})"})
    EXPECT_FALSE(learned(event).read(event)) << event;
  const char* completion = R"({"choices":[{"index":0,"text":"a","finish_reason":null}]})";
  ASSERT_TRUE(learned(completion).read(completion));
  EXPECT_EQ(learned(completion).read(completion)->text, "a");
}

}  // namespace
}  // namespace ashlar::gateway
