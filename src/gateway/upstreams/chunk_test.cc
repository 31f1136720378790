#include "gateway/upstreams/chunk.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/json_full.h"
#include "gateway/upstreams/teller.h"
#include "gateway/upstreams/wire.h"

namespace ashlar::gateway {
namespace {

// Nearly all that servers send, and what is nearly that.
const std::vector<std::string>& events() {
  static const std::vector<std::string> all = {
      R"({"id":"c","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":null,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})",
      R"({"choices":[{"index":1,"delta":{"content":"中\u6587 \ud83d\ude00 \"q\" \\ \n"},"finish_reason":null}],"usage":null})",
      R"({"choices":[{"index":0,"delta":{"reasoning_content":"hm","content":null},"stop_reason":null}]})",
      R"({"choices":[{"index":0,"delta":{"reasoning":"hm","refusal":null,"tool_calls":null}}]})",
      R"({"choices":[{"index":0,"delta":{"refusal":"","content":"a"},"safety":{"hate":{"filtered":false}},"content_filter_results":null}]})",
      R"({"choices":[{"index":0,"delta":{},"finish_reason":"length","stop_reason":null,"seed":5}]})",
      R"({"choices":[{"index":0,"text":"a piece","logprobs":null,"finish_reason":null}]})",
      R"({"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21,"cache_creation_input_tokens":0,"prompt_tokens_details":{"cached_tokens":3,"cache_write_tokens":0,"audio_tokens":null},"completion_tokens_details":{"reasoning_tokens":4,"x":[1,{"y":2}]},"cost":0.25}})",
      R"({"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":-1,"completion_tokens":1e99,"prompt_tokens_details":null}})",
      R"( {"choices" : [ { "index" : 0 , "delta" : { "content" : "a" } } ] , "x_groq": {"id": [1, [2]]} } )",
      R"({"provider":{"a":[true,false]},"choices":[{"delta":{"content":"a"}}]})",
      R"({"choices":[{"index":"2","delta":{"content":"a"}}]})",
      R"({"choices":null,"prompt_results":[{"a":1}]})",
      R"({})",
  };
  return all;
}

// The same by way of a tree; nullopt: a Chunk cannot hold it.
std::optional<Chunk> by_tree(const std::string& event) {
  const auto json = parse_answer(event);
  if (!json || !json->is_object() || find_member(*json, "error") != nullptr) return std::nullopt;
  Chunk out;
  if (const Json* usage = find_member(*json, "usage")) {
    if (!usage->is_object()) return std::nullopt;
    const auto inner = [&](const char* of, const char* name) {
      const Json* details = find_member(*usage, of);
      return details != nullptr ? count_of(*details, name) : std::nullopt;
    };
    out.usage = {count_of(*usage, "prompt_tokens"), count_of(*usage, "completion_tokens"),
                 inner("prompt_tokens_details", "cached_tokens"),
                 inner("completion_tokens_details", "reasoning_tokens")};
  }
  const Json* choices = find_member(*json, "choices");
  if (choices == nullptr) return out;
  if (!choices->is_array() || choices->size() > 1) return std::nullopt;
  if (choices->empty()) return out;
  const Json& choice = choices->front();
  if (!choice.is_object() || find_member(choice, "message") != nullptr || find_member(choice, "logprobs") != nullptr)
    return std::nullopt;
  if (const Json* why = find_member(choice, "stop_reason"); why != nullptr && !why->is_object()) return std::nullopt;
  out.choice = count_of(choice, "index").value_or(0);
  out.finish = string_member(choice, "finish_reason");
  const Json* delta = find_member(choice, "delta");
  if (delta == nullptr) {
    out.text = string_member(choice, "text");
    return out;
  }
  if (!delta->is_object()) return std::nullopt;
  out.in_delta = true;
  for (const auto& [name, value] : delta->items())
    if (!value.is_null() && !(value.is_string() && value.get<std::string>().empty()) && name != "role" &&
        name != "content" && name != "reasoning_content" && name != "reasoning")
      return std::nullopt;
  out.text = string_member(*delta, "content");
  out.thought = string_member(*delta, "reasoning_content");
  if (out.thought.empty()) out.thought = string_member(*delta, "reasoning");
  return out;
}

TEST(Chunk, SaysWhatATreeSays) {
  for (const std::string& event : events()) {
    const auto chunk = read_chunk(event);
    ASSERT_TRUE(chunk) << event;
    EXPECT_EQ(chunk, by_tree(event)) << event;
  }
}

TEST(Chunk, LeavesTheRestToATree) {
  for (const char* event : {R"({"error":{"message":"no"}})",
                            R"({"error":"no"})",
                            R"({"choices":[{"delta":{"content":"a"}},{"delta":{}}]})",
                            R"({"choices":[{"message":{"content":"a"}}]})",
                            R"({"choices":[{"delta":{"tool_calls":[{"index":0}]}}]})",
                            R"({"choices":[{"delta":{"content":["a"]}}]})",
                            R"({"choices":[{"delta":{"audio":{"id":"a"}}}]})",
                            R"({"choices":[{"delta":{},"logprobs":{"content":[]}}]})",
                            R"({"choices":[{"delta":{},"stop_reason":128001}]})",
                            R"({"choices":[],"prompt_filter_results":[{"prompt_index":0}]})",
                            R"({"choices":[{"delta":{},"content_filter_results":{"hate":{"filtered":false}}}]})",
                            R"({"choices":[{"delta":{},"content_filter_offsets":{"check_offset":4}}]})",
                            R"({"choices":[],"usage":{"prompt_tokens_details":{"cache_write_tokens":3}}})",
                            R"({"choices":[],"usage":{"prompt_tokens_details":{"cache_creation_tokens":3}}})",
                            R"({"choices":[],"usage":{"cache_creation_input_tokens":3}})",
                            R"({"choices":[{"delta":{},"stop_reason":"END"}]})",
                            R"({"choices":[{"delta":{"refusal":"no"}}]})",
                            "[]",
                            "1",
                            "null",
                            "",
                            "{",
                            R"({"a":1}x)",
                            "{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}",
                            R"({"a":01})"})
    EXPECT_FALSE(read_chunk(event)) << event;
}

// Whatever it takes, it takes as a tree has it.
TEST(Chunk, AgreesWithATreeOnBrokenEvents) {
  std::mt19937 random(1);
  const std::string inserted = R"("{}[],:\0x7f null 1e5 "content":"delta":{"choices":[)";
  int taken = 0;
  for (int turn = 0; turn < 20'000; ++turn) {
    std::string event = events()[random() % events().size()];
    for (int i = static_cast<int>(random() % 4); i >= 0 && !event.empty(); --i) {
      const std::size_t at = random() % event.size(), length = random() % 12;
      switch (random() % 3) {
        case 0:
          event.erase(at, length);
          break;
        case 1:
          event.insert(at, inserted.substr(random() % inserted.size(), length));
          break;
        default:
          event[at] = static_cast<char>(random());
      }
    }
    const auto chunk = read_chunk(event);
    if (!chunk) continue;
    ++taken;
    const auto tree = by_tree(event);
    ASSERT_TRUE(tree) << event;
    EXPECT_EQ(*chunk, *tree) << event;
  }
  EXPECT_GT(taken, 500);
}

}  // namespace
}  // namespace ashlar::gateway
