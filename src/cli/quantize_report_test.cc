#include "cli/quantize_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/json_full.h"
#include "cli/calibration.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// Three versions of four bits, of which the one that took most work lost most.
QuantizeReport invented() {
  QuantizeReport report{.model = "a <b> & \"c\"", .text = "text.txt", .parameters = 1000, .tokens = 64, .isa = "avx2"};
  report.rows = {
      {.type = "BF16", .bytes = 2000, .bits = 16, .perplexity = 10, .speed = 5},
      {.method = "rtn",
       .type = "Q4_1",
       .bytes = 600,
       .bits = 4.8,
       .perplexity = 10.4,
       .change = 4,
       .speed = 9,
       .worst = {{7, 0.25}}},
      {.method = "gptq", .type = "Q4_1", .bytes = 600, .bits = 4.8, .perplexity = 10.05, .change = 0.5, .speed = 9},
      {.method = "awq", .type = "Q4_1", .bytes = 600, .bits = 4.8, .perplexity = 10.6, .change = 6, .speed = 9}};
  return report;
}

// Every element that is opened is closed, in order, and nothing else stands between.
void expect_well_formed(std::string_view xml) {
  std::vector<std::string> open;
  for (std::size_t at = 0; (at = xml.find('<', at)) != std::string_view::npos;) {
    const std::size_t end = xml.find('>', at);
    ASSERT_NE(end, std::string_view::npos);
    const std::string_view tag = xml.substr(at + 1, end - at - 1);
    ASSERT_EQ(tag.find('<'), std::string_view::npos) << tag;
    ASSERT_EQ(std::ranges::count(tag, '"') % 2, 0) << tag;
    if (tag.starts_with('/')) {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.emplace_back(tag.substr(0, tag.find(' ')));
    }
    at = end;
  }
  EXPECT_TRUE(open.empty());
}

TEST(QuantizeReport, AdviceNamesWhatIsBestAndWhatLostToRounding) {
  const std::string said = advice(invented());
  EXPECT_THAT(said, HasSubstr("awq at 4 bits, on an H100 and its kin FP8"));
  EXPECT_THAT(said, HasSubstr("of 4 bits gptq Q4_1 kept most of this model (+0.50 %)"));
  EXPECT_THAT(said, HasSubstr("rounding did better than awq at Q4_1 (+6.00 % where rtn has +4.00 %)"));
  EXPECT_THAT(said, Not(HasSubstr("better than gptq")));
}

TEST(QuantizeReport, TableHasARowForEachVersion) {
  const std::string table = report_text(invented());
  EXPECT_THAT(table, testing::ContainsRegex("as it is +BF16"));
  EXPECT_THAT(table, testing::ContainsRegex("rtn +Q4_1 .* 4.80 +10.4000 +.4.00 %.* 7 .25.0 %"));
  EXPECT_THAT(table, testing::ContainsRegex("awq +Q4_1"));
}

TEST(QuantizeReport, PictureIsWellFormedWhateverTheNames) {
  const std::string svg = report_svg(invented());
  expect_well_formed(svg);
  EXPECT_THAT(svg, HasSubstr("a &lt;b&gt; &amp; &quot;c&quot;"));
  EXPECT_THAT(svg, HasSubstr(">gptq Q4_1</text>"));
  QuantizeReport one = invented();
  one.rows.resize(1);
  expect_well_formed(report_svg(one));
}

TEST(QuantizeReport, HalvesCutNoCharacterAndPreferALinesEnd) {
  EXPECT_EQ(halves("one two\nthree four").first, "one two\nt");
  EXPECT_EQ(halves("0123456789abcdef\n0123456789abc").first, "0123456789abcdef\n");
  const auto [first, second] = halves("ä€ä");
  EXPECT_EQ(first, "ä€");
  EXPECT_EQ(second, "ä");
  EXPECT_EQ(halves("").second, "");
}

TEST(QuantizeReport, MeasuresEachVersionAndLeavesNothing) {
  const fs::path folder = fs::path(testing::TempDir()) / "quantize-report";
  fs::remove_all(folder);
  fs::create_directories(folder);
  ThreadPool pool(2);
  const auto model = models::open_model(models::open_file("assets/model/ashlar-assistant.gguf").value()).value();
  const ReportOptions options{.types = "Q8_0,Q4_0",
                              .methods = "rtn",
                              .type = "Q4_1",
                              .method = "awq",
                              .calibration = "assets/model/data/en_about.txt",
                              .folder = folder,
                              .window = 64,
                              .windows = 8};
  const auto report = measure_report(model, options, pool);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(fs::is_empty(folder));
  std::vector<std::string> names;
  for (const ReportRow& row : report->rows) {
    names.push_back(row.method + " " + row.type);
    EXPECT_GT(row.perplexity, 1);
    EXPECT_GT(row.speed, 0);
  }
  EXPECT_THAT(names, ElementsAre(" Q8_0", "rtn Q8_0", "rtn Q4_0", "awq Q4_1"));
  EXPECT_TRUE(report->twice);
  EXPECT_NEAR(report->rows[1].change, 0, 0.01) << "the same type again";
  EXPECT_LT(report->rows[1].worst.front().error, 0.001);
  EXPECT_GT(report->rows[2].worst.front().error, 0.01);
  EXPECT_GE(report->rows[2].worst[0].error, report->rows[2].worst[1].error);
  EXPECT_LT(report->rows[2].bytes, report->rows[0].bytes);
  const Json json = report_json(*report);
  EXPECT_EQ(json["rows"].size(), 4u);
  EXPECT_EQ(json["rows"][2]["type"], "Q4_0");
  EXPECT_EQ(json["rows"][2]["worst_layers"].size(), 3u);
  EXPECT_TRUE(json["rows"][2]["change_percent"].is_number());
}

TEST(QuantizeReport, RefusesWithoutATextOrForAnUnknownName) {
  ThreadPool pool(1);
  const auto model = models::open_model(models::open_file("assets/model/ashlar-assistant.gguf").value()).value();
  EXPECT_THAT(measure_report(model, {}, pool).error().message, HasSubstr("--text"));
  EXPECT_THAT(measure_report(model, {.types = "Q9"}, pool).error().message, HasSubstr("'Q9'"));
  EXPECT_THAT(measure_report(model, {.methods = "awq", .text = "x"}, pool).error().message, HasSubstr("--calibration"));
  EXPECT_THAT(measure_report(model, {.text = "no such file"}, pool).error().message, HasSubstr("no such file"));
}

}  // namespace
}  // namespace ashlar::cli
