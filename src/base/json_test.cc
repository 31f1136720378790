#include "base/json_full.h"

#include <gtest/gtest.h>

#include <string>

namespace ashlar {
namespace {

TEST(Json, MembersKeepTheirOrder) {
  const auto json = parse_json(R"({"z":1,"a":{"y":2,"b":3}})");
  ASSERT_TRUE(json);
  EXPECT_EQ(dump_json(*json), R"({"z":1,"a":{"y":2,"b":3}})");
}

TEST(Json, ADuplicateMemberTakesItsLastValue) {
  const auto json = parse_json(R"({"a":1,"a":2})");
  ASSERT_TRUE(json);
  EXPECT_EQ((*json)["a"], 2);
}

TEST(Json, ADuplicateMemberIsAnErrorWhereNamesMustBeUnique) {
  const JsonLimits unique{.unique = true};
  EXPECT_TRUE(parse_json(R"({"a":{"a":1},"b":[{"a":1},{"a":2}]})", unique));
  EXPECT_EQ(parse_json(R"({"a":1,"\u0061":2})", unique).error().message, "JSON: a name stands twice in one object");
  EXPECT_FALSE(parse_json(R"([{"b":{"a":1,"c":0,"a":2}}])", unique));
}

TEST(Json, CountsAnArraysElements) {
  const JsonLimits limits{.elements = 2};
  EXPECT_TRUE(parse_json(R"([[1,"b"],{"a":1,"b":2,"c":3}])", limits));
  for (const char* text : {"[1,2,3]", "[[],[],[]]", "[{},{},{}]", "[null,true,\"a\"]", "[-1,1.5,false]", "[[0,0,0]]"})
    EXPECT_EQ(parse_json(text, limits).error().code, Code::too_large) << text;
}

// What parse_json_members() visits, in one line, and what it leaves.
std::string walked(std::string_view text, std::string_view in, std::size_t most = 100, JsonLimits limits = {}) {
  std::string out;
  const auto rest = parse_json_members(text, in, most, limits, [&](const std::string& name, const Json& value) -> Status {
    if (name == "stop") return Error{Code::forbidden, "stopped"};
    out += name + "=" + dump_json(value) + " ";
    return {};
  });
  return rest ? out + "| " + dump_json(*rest) : rest.error().message;
}

TEST(Json, HandsOnTheMembersOfALargeObject) {
  EXPECT_EQ(walked(R"({"a":1,"b":{"c":[2]},"a":3})", ""), R"(a=1 b={"c":[2]} a=3 | {})");
  EXPECT_EQ(walked(R"({"x":{"y":0},"map":{"b":"1","a":{"map":{"q":0}}},"z":[]})", "map"),
            R"(b="1" a={"map":{"q":0}} | {"x":{"y":0},"map":{},"z":[]})");
  EXPECT_EQ(walked("{}", ""), "| {}");
  EXPECT_EQ(walked("[{\"map\":{\"a\":1}}]", "map"), "| [{\"map\":{\"a\":1}}]");
  EXPECT_EQ(walked(R"({"map":[{"a":1}],"m":{"a":1}})", "map"), R"(| {"map":[{"a":1}],"m":{"a":1}})");
  EXPECT_EQ(walked(R"({"map":7})", "map"), R"(| {"map":7})");
}

TEST(Json, LimitsAWalkedObjectByItself) {
  EXPECT_EQ(walked(R"({"a":1,"b":2,"c":3})", "", 3, {.members = 1}), "a=1 b=2 c=3 | {}");
  EXPECT_EQ(walked(R"({"a":1,"b":2,"c":3})", "", 2), "JSON: an object has more than 2 members");
  EXPECT_EQ(walked(R"({"a":{"x":1,"y":2}})", "", 3, {.members = 1}), "JSON: an object has more than 1 members");
  EXPECT_EQ(walked(R"({"a":1,"a":2})", "", 3, {.unique = true}), "a=1 a=2 | {}");
  EXPECT_EQ(walked(R"({"map":{},"map":{}})", "map", 3, {.unique = true}), "JSON: a name stands twice in one object");
  EXPECT_EQ(walked(R"({"a":1,"stop":2,"c":)", ""), "stopped");
  EXPECT_EQ(walked(R"({"a":1,"stop":2})", ""), "stopped");
  EXPECT_TRUE(walked(R"({"a":1)", "").starts_with("JSON: byte"));
}

TEST(Json, RefusesWhatIsNotJson) {
  const std::string bad[] = {
      "", " ", "{", "}", "[", "]", "[1,]", "[1 2]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{'a':1}", "[1],", "nul", "tru", "NaN",
      "[NaN]", "[Infinity]", "[-]", "[01]", "[1.]", "[.5]", "[1e]", "[0x10]", "[+1]", "\"", "\"abc", "\"\n\"", "\"\\x\"", "\"\\u12\"",
      "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "[\"\xff\"]", "[\"\xc0\xaf\"]", "[\"\xed\xa0\x80\"]", "[1]x", "// c\n1", "/* c */1",
      std::string("[\"\0\"]", 5), std::string("\0", 1), "\xEF\xBB\xBF\xEF\xBB\xBF[]", "[1]\x01", "{\"a\":1 \"b\":2}", "[\"a\" \"b\"]", "--1",
  };
  for (const std::string& text : bad) {
    const auto json = parse_json(text);
    ASSERT_FALSE(json) << text;
    EXPECT_EQ(json.error().code, Code::invalid) << text;
    EXPECT_TRUE(json.error().message.starts_with("JSON: ")) << json.error().message;
  }
}

TEST(Json, NamesTheByteWhereItBroke) {
  EXPECT_NE(parse_json("[1, 2, x]").error().message.find("byte 8"), std::string::npos) << parse_json("[1, 2, x]").error().message;
}

TEST(Json, DepthIsBounded) {
  EXPECT_TRUE(parse_json(std::string(128, '[') + std::string(128, ']')));
  const auto deep = parse_json(std::string(10'000, '['));
  ASSERT_FALSE(deep);
  EXPECT_EQ(deep.error().code, Code::too_large);
  std::string objects;
  for (int i = 0; i < 10'000; ++i) objects += "{\"a\":";
  EXPECT_EQ(parse_json(objects).error().code, Code::too_large);
}

TEST(Json, MembersAreBounded) {
  std::string wide = "{";
  for (int i = 0; i < 1025; ++i) wide += (i ? ",\"" : "\"") + std::to_string(i) + "\":0";
  EXPECT_EQ(parse_json(wide + "}").error().code, Code::too_large);
}

TEST(Json, AStringOfTenMegabytesIsFine) {
  const std::string text(10 << 20, 'x');
  const auto json = parse_json("\"" + text + "\"");
  ASSERT_TRUE(json);
  EXPECT_EQ(json->get_ref<const std::string&>(), text);
}

TEST(Json, StringsWrittenByHandReadBackTheSame) {
  std::string every;
  for (int c = 1; c < 128; ++c) every.push_back(static_cast<char>(c));
  every += "é漢😀";
  every.push_back('\0');
  std::string out;
  append_json_string(out, every);
  const auto json = parse_json(out);
  ASSERT_TRUE(json) << json.error().message;
  EXPECT_EQ(json->get<std::string>(), every);
}

TEST(Json, BrokenUtf8IsWrittenAsTheReplacementCharacter) {
  std::string out;
  append_json_string(out, "a\xff\xe6\xbcz");
  EXPECT_EQ(out, "\"a\xEF\xBF\xBD\xEF\xBF\xBDz\"");
}

}  // namespace
}  // namespace ashlar
