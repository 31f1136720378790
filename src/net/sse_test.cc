#include "net/sse.h"

#include <gtest/gtest.h>

namespace ashlar::net {
namespace {

// "type|id|data" of each event, read in steps of `step` bytes.
std::vector<std::string> events(std::string_view bytes, std::size_t step) {
  std::vector<std::string> out;
  SseReader reader;
  for (std::size_t at = 0; at < bytes.size(); at += step)
    EXPECT_TRUE(reader.read(bytes.substr(at, step),
                            [&](const SseEvent& e) { out.push_back(e.type + "|" + e.last_id + "|" + e.data); }));
  return out;
}

TEST(Sse, ReadsWhatTheStandardShows) {
  const std::pair<std::string_view, std::vector<std::string>> kCases[] = {
      {"data: YHOO\ndata: +2\ndata: 10\n\n", {"message||YHOO\n+2\n10"}},
      {": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
       {"message|1|first event", "message||second event", "message|| third event"}},
      {"data\n\ndata\ndata\n\ndata:", {"message||", "message||\n"}},
      {"data:test\n\ndata: test\n\n", {"message||test", "message||test"}},
      {"event: add\r\ndata: 1\r\n\r\nevent: lost\r\n\r\ndata: 2\r\n\r\n", {"add||1", "message||2"}},
      {"\xEF\xBB\xBF"
       "data: a\rdata: b\r\rid: 7\ndata: c\n\ndata: d\n\n",
       {"message||a\nb", "message|7|c", "message|7|d"}},
      {"unknown: x\ndata: y\nretry: 10\n\n", {"message||y"}},
  };
  for (const auto& [bytes, expected] : kCases)
    for (const std::size_t step : {1, 2, 3, 5, 1000})
      EXPECT_EQ(events(bytes, step), expected) << bytes << " in steps of " << step;
}

TEST(Sse, BoundsAnEvent) {
  SseReader reader(100);
  const auto none = [](const SseEvent&) { FAIL(); };
  EXPECT_TRUE(reader.read(std::string(90, 'x'), none));
  EXPECT_EQ(reader.read(std::string(90, 'x'), none).error().code, Code::too_large);
  EXPECT_FALSE(reader.read("\n\n", none));
  SseReader lines(100);
  Status status;
  for (int i = 0; i < 100 && status; ++i) status = lines.read("data: xxxxxxxx\n", none);
  EXPECT_FALSE(status);
}

TEST(Sse, RemembersRetry) {
  SseReader reader;
  EXPECT_TRUE(reader.read("retry: 250\nretry: soon\n", [](const SseEvent&) {}));
  EXPECT_EQ(reader.retry_ms(), 250);
}

TEST(Sse, ReadsWhatItWrites) {
  std::string out;
  append_sse(out, "one\ntwo\r\nthree\rfour\n", "tick", "9");
  append_sse(out, "");
  EXPECT_EQ(out, "event: tick\nid: 9\ndata: one\ndata: two\ndata: three\ndata: four\ndata: \n\ndata: \n\n");
  EXPECT_EQ(events(out, 4), (std::vector<std::string>{"tick|9|one\ntwo\nthree\nfour\n", "message|9|"}));
}

}  // namespace
}  // namespace ashlar::net
