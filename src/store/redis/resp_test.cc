#include "store/redis/resp.h"

#include <gtest/gtest.h>

namespace ashlar::store::resp {
namespace {

using Kind = Value::Kind;

std::string shown(const Value& value) {
  switch (value.kind) {
    case Kind::null:
      return "null";
    case Kind::string:
      return "'" + value.text + "'";
    case Kind::error:
      return "!" + value.text;
    case Kind::integer:
      return std::to_string(value.integer);
    case Kind::array:
    case Kind::push:
      break;
  }
  std::string out = value.kind == Kind::push ? ">[" : "[";
  for (const Value& item : value.items) out += shown(item) + " ";
  return out + "]";
}

// All replies in `bytes`, fed `size` at a time, or the kind of error.
std::string read_all(std::string_view bytes, std::size_t size, Limits limits = {}) {
  Reader reader(limits);
  std::string out;
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, size);
    bytes.remove_prefix(piece.size());
    if (Status read = reader.read(piece, [&](const Value& value) { out += shown(value) + ";"; }); !read)
      return out + std::string(name(read.error().code));
  }
  return out;
}

TEST(Resp, ReadsBothProtocolsInPiecesOfAnySize) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"+OK\r\n", "'OK';"},
      {"-ERR no\r\n", "!ERR no;"},
      {":-42\r\n:+7\r\n", "-42;7;"},
      {"$5\r\nhe\r\no\r\n$0\r\n\r\n$-1\r\n*-1\r\n_\r\n", "'he\r\no';'';null;null;null;"},
      {"*3\r\n:1\r\n*1\r\n$1\r\na\r\n*0\r\n", "[1 ['a' ] [] ];"},
      {"%1\r\n+k\r\n:1\r\n~1\r\n#t\r\n#f\r\n", "['k' 1 ];[1 ];0;"},
      {",3.25\r\n(12345678901234567890123\r\n", "'3.25';'12345678901234567890123';"},
      {"=7\r\ntxt:abc\r\n!5\r\nERR x\r\n", "'abc';!ERR x;"},
      {">2\r\n+message\r\n+x\r\n+OK\r\n", ">['message' 'x' ];'OK';"},
      {"|1\r\n+ttl\r\n:9\r\n+OK\r\n*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:5\r\n:6\r\n", "'OK';[5 6 ];"},
  };
  for (const auto& [bytes, values] : cases)
    for (const std::size_t size : {1, 2, 3, 1000}) EXPECT_EQ(read_all(bytes, size), values) << bytes;
}

TEST(Resp, RefusesWhatIsNotTheProtocol) {
  for (const std::string_view bytes :
       {"HTTP/1.1 200 OK\r\n", "\r\n", ":1x\r\n", ":\r\n", "$3\r\nabcde", "$-2\r\n", "*-5\r\n", "+OK\n", "#x\r\n",
        "_x\r\n", "=2\r\nab\r\n", "$?\r\n", "*1\r\n>1\r\n+x\r\n"})
    for (const std::size_t size : {1, 1000}) EXPECT_EQ(read_all(bytes, size), "corrupt") << bytes;
}

TEST(Resp, BelievesNoSizeBeforeItIsBounded) {
  const Limits limits{.bytes = 1000, .items = 10, .depth = 3};
  for (const std::string& bytes :
       {std::string("$1001\r\n"), std::string("$9223372036854775807\r\n"), std::string("*11\r\n"),
        std::string("*9223372036854775807\r\n"), std::string("*1\r\n*1\r\n*1\r\n*1\r\n"),
        "+" + std::string(70'000, 'x'), "*10\r\n$900\r\n" + std::string(900, 'x') + "\r\n$200\r\n",
        std::string("*2\r\n*5\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n*5\r\n:1\r\n:1\r\n:1\r\n")})
    EXPECT_EQ(read_all(bytes, 64, limits), "too_large") << bytes.substr(0, 40);
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "$10\r\n0123456789\r\n";
  EXPECT_EQ(read_all(many, 1000, limits).size(), 13'000u) << "bounds are of one reply, not of all";
}

TEST(Resp, WritesCommands) {
  const std::string words[] = {"SET", "key", ""};
  EXPECT_EQ(command(words), "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n");
}

}  // namespace
}  // namespace ashlar::store::resp
