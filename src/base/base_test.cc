#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/base64.h"
#include "base/bytes.h"
#include "base/duration.h"
#include "base/mapped_file.h"
#include "base/metrics.h"
#include "base/options.h"
#include "base/threads.h"
#include "base/utf8.h"

namespace ashlar {
namespace {

using testing::HasSubstr;

// RFC 4648, 10.
TEST(Base64, WritesThePublishedExamples) {
  const std::string_view foobar = "foobar";
  const char* const expected[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
  for (std::size_t size = 0; size <= foobar.size(); ++size) {
    std::string out;
    append_base64(out, {reinterpret_cast<const unsigned char*>(foobar.data()), size});
    EXPECT_EQ(out, expected[size]);
  }
}

TEST(Duration, IsReadAsPeopleWriteIt) {
  const std::pair<const char*, long> good[] = {
      {"90", 90'000}, {"5m", 300'000}, {"1h30m", 5'400'000}, {"1.5h", 5'400'000}, {"250ms", 250}, {"1m0.5s", 60'500},
      {"0", 0}, {"0s", 0}, {"-0", 0}, {"-1", -1}, {"-5m", -1}, {"+1s", 1000}, {"1us", 0},
      {"99999999h", 10l * 365 * 86'400'000}};
  for (const auto& [text, ms] : good) {
    const auto read = parse_duration(text);
    ASSERT_TRUE(read) << text;
    EXPECT_EQ(read->count(), ms) << text;
  }
  for (const char* bad : {"", "-", "--1", "m", "5 m", "5x", "5m3", "1h-30m", "nan", "inf", "1e400", "soon", "5m ", "1e3s"})
    EXPECT_FALSE(parse_duration(bad)) << bad;
  EXPECT_THAT(parse_duration("soon").error().message, HasSubstr("'soon'"));
  EXPECT_EQ(duration_of(2.5)->count(), 2500);
  EXPECT_EQ(duration_of(-0.1)->count(), -1);
  EXPECT_EQ(duration_of(1e300)->count(), 10l * 365 * 86'400'000);
  EXPECT_FALSE(duration_of(0.0 / 0.0));
}

TEST(Utf8, DecodesWhatRfc3629Allows) {
  const struct {
    const char* text;
    char32_t code;
  } good[] = {{"A", 'A'}, {"\xC2\x80", 0x80}, {"\xDF\xBF", 0x7FF}, {"\xE0\xA0\x80", 0x800}, {"\xED\x9F\xBF", 0xD7FF},
              {"\xEE\x80\x80", 0xE000}, {"\xF0\x90\x80\x80", 0x10000}, {"\xF4\x8F\xBF\xBF", 0x10FFFF}};
  for (const auto& each : good) {
    const auto step = utf8::decode(each.text);
    EXPECT_TRUE(step.valid);
    EXPECT_EQ(step.code, each.code);
    std::string back;
    utf8::append(back, each.code);
    EXPECT_EQ(back, each.text);
  }
}

TEST(Utf8, RefusesOverlongSurrogatesAndWhatIsTooHigh) {
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80", "\xFF"})
    EXPECT_FALSE(utf8::is_valid(bad));
}

TEST(Utf8, CompletePrefixEndsBetweenCharacters) {
  const std::string text = "aé漢😀";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::string_view part = std::string_view(text).substr(0, cut);
    const std::size_t whole = utf8::complete_prefix(part);
    EXPECT_TRUE(utf8::is_valid(part.substr(0, whole))) << cut;
    EXPECT_LT(cut - whole, 4u);
  }
  EXPECT_EQ(utf8::complete_prefix("a\xff"), 2u) << "a broken byte will never be finished";
}

TEST(Utf8, SanitizeReplacesBrokenBytes) { EXPECT_EQ(utf8::sanitize("a\xF0\x9F\x98z"), "a\xEF\xBF\xBDz"); }

TEST(Bytes, ReadWithTheirUnits) {
  EXPECT_EQ(parse_bytes("512MiB")->count, 512u << 20);
  EXPECT_EQ(parse_bytes("1.5 GiB")->count, 3ull << 29);
  EXPECT_EQ(parse_bytes("2g")->count, 2ull << 30);
  EXPECT_EQ(parse_bytes("1000000")->count, 1000000u);
  for (const char* bad : {"", "x", "-1", "1 parsec", "1e30", "nan"}) EXPECT_FALSE(parse_bytes(bad)) << bad;
  EXPECT_EQ(to_string(Bytes{3ull << 29}), "1.5 GiB");
}

struct Sample {
  int count = 3;
  bool quick = false;
  double share = 0.5;
  std::string name = "x";
  std::vector<std::string> list;
  void fields(auto&& field) {
    field("count", count, "");
    field("quick", quick, "");
    field("share", share, "");
    field("name", name, "");
    field("list", list, "");
  }
};

class OptionsFile : public testing::Test {
 protected:
  void write(const std::string& text) { std::ofstream(path_) << text; }
  ~OptionsFile() override { std::filesystem::remove(path_); }
  std::string path_ = std::filesystem::temp_directory_path() / ("ashlar_options_" + std::to_string(getpid()) + ".yaml");
};

TEST_F(OptionsFile, SetsWhatItNames) {
  write("count: 7\nquick: yes\nname: \"a b\"\nlist: [p, q]\n");
  Sample sample;
  auto options = list_options(sample);
  ASSERT_TRUE(read_options_file(path_, options));
  EXPECT_EQ(sample.count, 7);
  EXPECT_TRUE(sample.quick);
  EXPECT_EQ(sample.name, "a b");
  EXPECT_THAT(sample.list, testing::ElementsAre("p", "q"));
}

TEST_F(OptionsFile, NamesTheLineOfAMistake) {
  Sample sample;
  auto options = list_options(sample);
  write("count: 7\nbogus: 1\n");
  EXPECT_THAT(read_options_file(path_, options).error().message, HasSubstr(":2: no option is called 'bogus'"));
  write("count: many\n");
  EXPECT_THAT(read_options_file(path_, options).error().message, HasSubstr("'many' is not a whole number"));
  write("count: [1\n");
  EXPECT_FALSE(read_options_file(path_, options));
  write("- 1\n");
  EXPECT_FALSE(read_options_file(path_, options));
  EXPECT_EQ(read_options_file(path_ + ".none", options).error().code, Code::not_found);
}

TEST(Options, ReadTheEnvironment) {
  setenv("ASHLAR_SHARE", "0.25", 1);
  Sample sample;
  auto options = list_options(sample);
  EXPECT_TRUE(read_options_environment(options));
  EXPECT_EQ(sample.share, 0.25);
  setenv("ASHLAR_SHARE", "half", 1);
  EXPECT_THAT(read_options_environment(options).error().message, HasSubstr("ASHLAR_SHARE"));
  unsetenv("ASHLAR_SHARE");
}

TEST(Metrics, RenderAsPrometheusText) {
  Counter hits{"test_hits_total", "Hits.", {{"path", "a\"b"}}};
  Counter more{"test_hits_total", "Hits.", {{"path", "c"}}};
  Gauge level{"vllm:test_level", "Level."};
  const double bounds[] = {0.1, 1};
  Histogram times{"test_seconds", "Times.", bounds, {{"k", "v"}}};
  hits.add(2);
  level.set(0.5);
  times.observe(0.1);
  times.observe(0.5);
  times.observe(7);
  const std::string text = metrics::render();
  EXPECT_THAT(text, HasSubstr("# TYPE ashlar_test_hits_total counter\nashlar_test_hits_total{path=\"a\\\"b\"} 2\nashlar_test_hits_total{path=\"c\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vllm:test_level 0.5\n"));
  EXPECT_THAT(text, HasSubstr("ashlar_test_seconds_bucket{k=\"v\",le=\"0.1\"} 1\nashlar_test_seconds_bucket{k=\"v\",le=\"1\"} 2\n"
                              "ashlar_test_seconds_bucket{k=\"v\",le=\"+Inf\"} 3\nashlar_test_seconds_sum{k=\"v\"} 7.6\nashlar_test_seconds_count{k=\"v\"} 3\n"));
}

TEST(Metrics, LeaveWhenTheyDie) {
  { Counter gone{"test_gone_total", "Gone."}; }
  EXPECT_THAT(metrics::render(), testing::Not(HasSubstr("test_gone")));
}

TEST(ThreadPool, RunsEachIndexOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int count : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      std::atomic<bool> worker_in_range{true};
      pool.for_each(count, [&](int index, int worker) {
        seen[static_cast<std::size_t>(index)].fetch_add(1);
        if (worker < 0 || worker >= threads) worker_in_range = false;
      });
      for (const auto& each : seen) EXPECT_EQ(each.load(), 1);
      EXPECT_TRUE(worker_in_range);
    }
  }
}

TEST(ThreadPool, ManyShortLoopsAndSleepsBetweenThem) {
  ThreadPool pool(3);
  std::atomic<int> total{0};
  for (int loop = 0; loop < 2000; ++loop) {
    pool.for_each(7, [&](int, int) { total.fetch_add(1, std::memory_order_relaxed); });
    if (loop % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));  // long enough for helpers to sleep
  }
  EXPECT_EQ(total.load(), 14000);
}

TEST(MappedFile, SaysWhyItCannotOpen) {
  EXPECT_EQ(MappedFile::open("/nonexistent/file").error().code, Code::not_found);
  EXPECT_EQ(MappedFile::open("/tmp").error().code, Code::io);
  EXPECT_EQ(MappedFile::open("/dev/zero").error().code, Code::io);
}

TEST_F(OptionsFile, AnEmptyFileMapsToNothing) {
  write("");
  const auto file = MappedFile::open(path_);
  ASSERT_TRUE(file);
  EXPECT_TRUE(file->bytes().empty());
}

}  // namespace
}  // namespace ashlar
