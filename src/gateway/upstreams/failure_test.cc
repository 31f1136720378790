#include "gateway/upstreams/failure.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

engine::Failed failed(int status, std::string_view body, net::Headers headers = {}) {
  return failure_of_answer("up", status, headers, body).failed;
}

TEST(Failure, EveryShapeOfErrorGivesItsMessage) {
  for (
      const char* body :
      {R"({"error":{"message":"the words","type":"invalid_request_error","param":"n","code":null}})",   // OpenAI, vLLM
       R"({"object":"error","message":"the words","type":"BadRequestError","param":null,"code":400})",  // old vLLM
       R"({"error":{"code":400,"message":"the words","type":"invalid_request_error"}})",                // llama-server
       R"({"error":"the words","error_type":"validation"})",                                            // TGI
       R"({"error":"the words"})",                                                                      // Ollama
       R"({"type":"error","error":{"type":"invalid_request_error","message":"the words"},"request_id":"r"})",  // Anthropic
       R"({"detail":"the words"})",  // FastAPI
       R"({"detail":[{"loc":["body","n"],"msg":"the words","type":"value_error"}]})",
       R"({"message":"the words"})",  // AWS
       R"({"Message":"the words","__type":"ValidationException"})",
       R"({"code":"InvalidParameter","message":"the words","request_id":"r"})",          // DashScope
       R"([{"error":{"code":400,"message":"the words","status":"INVALID_ARGUMENT"}}])",  // Google
       R"({"error":{"message":"the words","innererror":{"code":"x"}}})"}) {
    const auto out = failed(400, body);
    EXPECT_EQ(out.error.code, Code::invalid) << body;
    EXPECT_NE(out.error.message.find("the words"), std::string::npos) << body << " gave " << out.error.message;
  }
  EXPECT_NE(failed(400, "the words", {{"content-type", "text/plain"}}).error.message.find("the words"),
            std::string::npos);
}

TEST(Failure, PagesAndGarbageAreNotTold) {
  for (const char* body : {"<html>secret</html>", "", "{\"a\":", "\xff\xfe", "null", "[]", "[[[[[[]]]]]]",
                           "{\"error\":{\"error\":{\"error\":{\"error\":{}}}}}"}) {
    const auto out = failed(500, body);
    EXPECT_EQ(out.status, 502) << body;
    EXPECT_EQ(out.error.message, "the upstream 'up' says: 500 Internal Server Error") << body;
  }
  const auto dirty = failed(400, "{\"error\":\"a\\r\\nb\\u0000" + std::string(5000, 'x') + "\"}");
  EXPECT_EQ(dirty.error.message.find_first_of(std::string("\r\n\0", 3)), std::string::npos);
  EXPECT_LT(dirty.error.message.size(), 700u);
}

TEST(Failure, MeaningsAreKept) {
  EXPECT_TRUE(failed(400, R"({"error":{"message":"x","code":"context_length_exceeded"}})").over_context);
  EXPECT_TRUE(
      failed(400, R"({"object":"error","message":"This model's maximum context length is 10 tokens."})").over_context);
  EXPECT_TRUE(
      failed(400, R"({"error":{"message":"the request exceeds","type":"exceed_context_size_error"}})").over_context);
  EXPECT_TRUE(
      failed(400, R"({"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}})")
          .over_context);
  EXPECT_EQ(failed(400, R"({"error":{"code":"content_filter","message":"x"}})").reason, "content_policy_violation");
  EXPECT_EQ(failed(429, R"({"error":{"type":"insufficient_quota","message":"x"}})").reason, "upstream_quota");
  EXPECT_FALSE(failure_of_answer("up", 429, {}, R"({"error":{"type":"insufficient_quota"}})").retry);
  EXPECT_EQ(failed(429, "{}").error.code, Code::exhausted);
  EXPECT_EQ(failed(422, R"({"detail":"x"})").status, 422);
  EXPECT_EQ(failed(404, R"({"error":"no such model"})").error.code, Code::not_found);
  EXPECT_EQ(failed(404, "<html>").status, 502);
  EXPECT_EQ(failed(413, "").error.code, Code::too_large);
  EXPECT_EQ(failed(529, "").status, 503);
  EXPECT_EQ(failed(504, "").status, 504);
}

TEST(Failure, TheMemberAtFaultIsTold) {
  const auto said = [](std::string_view param) {
    return fmt::format(R"({{"error":{{"message":"x","type":"invalid_request_error","param":{},"code":null}}}})", param);
  };
  EXPECT_EQ(failed(400, said(R"("messages.[0].content")")).param, "messages.[0].content");
  EXPECT_EQ(failed(404, said(R"("model")")).param, "model");
  EXPECT_EQ(failed(422, said(R"("n")")).param, "n");
  EXPECT_EQ(failed(400, R"({"object":"error","message":"x","param":"top_p","code":400})").param, "top_p");
  EXPECT_EQ(failure_in_stream("up", *parse_json(said(R"("stop")"))).failed.param, "stop");
  // Azure's filter.
  EXPECT_EQ(failed(400, R"({"error":{"code":"content_filter","message":"x","param":"prompt"}})").param, "prompt");
  for (const std::string_view nothing : {"null", R"("")", R"("None")", "{}", R"(["n"])"})
    EXPECT_EQ(failed(400, said(nothing)).param, "") << nothing;
  EXPECT_EQ(failed(400, said(R"("a\r\nb")")).param, "a  b");
  EXPECT_LT(failed(400, said('"' + std::string(5000, 'x') + '"')).param.size(), 700u);
}

TEST(Failure, WhatIsNotTheRequestsFaultNamesNoMember) {
  const std::string_view body = R"({"error":{"message":"x","param":"key","code":"insufficient_quota"}})";
  for (const int status : {401, 403, 429, 500, 503}) EXPECT_EQ(failed(status, body).param, "") << status;
}

// In the words of each kind of server, whose codes say no more than that the request is not good.
TEST(Failure, EveryServersWordsForAPromptTooLongAreKnown) {
  for (const char* words :
       {"The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "Requested token count exceeds the model's maximum context length of 4096 tokens.",
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and "
        "200 "
        "`max_new_tokens`",
        "The sum of prompt length (5000), query length (0) should not exceed max_num_tokens (4096)",
        "prompt length plus max_tokens is over max_seq_len (4096)",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
        "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "Invalid request: Your request exceeded model token limit: 8192"})
    EXPECT_TRUE(
        failed(400, Json{{"error", {{"message", words}, {"type", "invalid_request_error"}}}}.dump()).over_context)
        << words;
}

TEST(Failure, AnAccountThatIsUsedUpAndATextThatIsFilteredAreKnownByTheirWordsToo) {
  for (const auto& [status, body] : std::initializer_list<std::pair<int, const char*>>{
           {400, R"({"type":"error","error":{"type":"invalid_request_error",
             "message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."}})"},
           {429, R"({"error":{"type":"exceeded_current_quota_error","message":"x"}})"},
           {403,
            R"({"code":"AllocationQuota.FreeTierOnly","message":"The free tier of the model has been exhausted."})"}})
    EXPECT_EQ(failed(status, body).reason, "upstream_quota") << body;
  for (const char* words : {"Output blocked by content filtering policy", "Content Exists Risk"})
    EXPECT_EQ(failed(400, Json{{"error", {{"message", words}, {"type", "invalid_request_error"}}}}.dump()).reason,
              "content_policy_violation")
        << words;
}

TEST(Failure, WhatIsSaidOfOurKeyStaysHere) {
  const auto out = failed(401, R"({"error":{"message":"Incorrect API key provided: sk-verysecret"}})");
  EXPECT_EQ(out.error.message.find("sk-"), std::string::npos);
  EXPECT_EQ(out.status, 502);
}

TEST(Failure, RetryAfterIsReadInItsForms) {
  using std::chrono::milliseconds;
  EXPECT_EQ(failed(429, "", {{"retry-after", "2"}}).retry_after, milliseconds(2000));
  EXPECT_EQ(failed(429, "", {{"retry-after-ms", "150"}, {"retry-after", "9"}}).retry_after, milliseconds(150));
  EXPECT_EQ(failed(429, "", {{"retry-after", "Fri, 31 Dec 2100 23:59:59 GMT"}}).retry_after, milliseconds(3'600'000));
  for (const char* text : {"", "-5", "soon", "nan", "Mon, 01 Jan 2001 00:00:00 GMT"})
    EXPECT_EQ(failed(429, "", {{"retry-after", text}}).retry_after, milliseconds(0)) << text;
  EXPECT_EQ(failed(429, "", {{"retry-after", "1e30"}}).retry_after, milliseconds(3'600'000));
}

}  // namespace
}  // namespace ashlar::gateway
