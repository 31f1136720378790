#include "base/yaml.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>

namespace ashlar {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// What load_yaml() says of it, whether it can be read or not; "": it is fine.
std::string told(const std::string& text) {
  FileFaults faults("a.yaml");
  const auto root = load_yaml(text, "a.yaml", faults);
  return root ? faults.text() : root.error().message;
}

TEST(Yaml, WhatIsSoundIsRead) {
  for (const char* text : {"", "# nothing\n", "a: 1\n", "{\"a\": [1, null]}", "a: &x [1]\nb: *x\n", "---\na: 1\n",
                           "a: 1\n...\n", "a: !!str 5\n", "a: \"tab\\tand\\nline\"\n",
                           "\xef\xbb\xbf"
                           "a: \xc3\xa4\n",
                           "a: |\n  two\n  lines\n"})
    EXPECT_EQ(told(text), "") << text;
}

TEST(Yaml, WhatWouldBeTakenOtherwiseThanMeantIsTold) {
  EXPECT_EQ(told("a: 1\nb: {c: 1, c: 2}\na: 3\n"), "a.yaml:2: 'c' stands twice\na.yaml:3: 'a' stands twice");
  EXPECT_EQ(told("base: &x {a: 1}\nb:\n  <<: *x\n"),
            "a.yaml:3: merge keys (<<) are not read: write the members themselves, or an alias for a whole value");
  EXPECT_EQ(told("a: !include b.yaml\n"), "a.yaml:1: the tag !include is not read: write the value itself");
  EXPECT_EQ(told("? [a, b]\n: c\n"), "a.yaml:1: a key should be a word");
  EXPECT_EQ(told("a: 1\n---\nb: 1\n"),
            "a.yaml:2: a second document begins here (after `---` or `...`): a file holds one");
  EXPECT_EQ(told("a: \"\\e[31m\"\n"), "a.yaml:1: an escape in this text stands for a control character: take it out");
}

TEST(Yaml, WhatIsNoTextOrNoYamlIsToldWithItsLine) {
  EXPECT_EQ(told("a: 1\nb: \xff\n"), "a.yaml:2: the byte 0xff is no UTF-8: save the file as UTF-8");
  EXPECT_EQ(told(std::string("a: 1\nb: \0x\n", 11)),
            "a.yaml:2: a control character, U+0000, stands in the file: take it out");
  // yaml-cpp takes this for the end of the file.
  EXPECT_EQ(told("a: 1\n\x04\nb: 2\n"), "a.yaml:2: a control character, U+0004, stands in the file: take it out");
  EXPECT_THAT(told("a:\n\tb: 1\n"), HasSubstr("(a tab stands before it: indent by blanks)"));
  EXPECT_THAT(told("a: [1\n"), StartsWith("a.yaml:"));
  EXPECT_THAT(told("a: *x\n"), StartsWith("a.yaml:1: this is no YAML"));
}

TEST(Yaml, WhatGrowsBeyondMeasureIsRefused) {
  EXPECT_NE(told(std::string(100'000, '[')), "");
  EXPECT_NE(told(std::string(100'000, '{')), "");
  EXPECT_THAT(told(std::string(80, '[') + std::string(80, ']')), HasSubstr("nested more than 64 deep"));
  EXPECT_THAT(told("a: &a [*a]\n"), HasSubstr("nested more than 64 deep"));
  // Each level has ten of the one below: text of a few hundred bytes that would be a hundred million values.
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 9; ++i) {
    bomb += fmt::format("a{0}: &a{0} [", i);
    for (int j = 0; j < 10; ++j) bomb += fmt::format("{}*a{}", j == 0 ? "" : ",", i - 1);
    bomb += "]\n";
  }
  EXPECT_THAT(told(bomb), HasSubstr("more than 500000 values"));
}

TEST(Yaml, FaultsAreToldOnceAndAreBounded) {
  FileFaults faults("a.yaml");
  for (int i = 0; i < 3; ++i) faults.add(7, "wrong\nhere\x1b[0m");
  EXPECT_EQ(faults.text(), "a.yaml:7: wrong?here?[0m");
  for (std::size_t i = 0; i < 1000; ++i) faults.add(i + 8, "wrong");
  EXPECT_EQ(std::ranges::count(faults.text(), '\n'), 100);
  EXPECT_THAT(faults.text(), HasSubstr("and more: these are the first 100"));
}

TEST(TextFile, SaysWhyItCannotBeRead) {
  const std::string folder = std::filesystem::temp_directory_path() / fmt::format("ashlar_yaml_{}", getpid());
  std::filesystem::create_directory(folder);
  const std::string path = folder + "/a", pipe = folder + "/pipe";
  std::ofstream(path) << std::string(11, 'x');
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto why = [](const std::string& path) {
    const auto read = read_text_file(path, "key file", 10_KiB);
    return read ? "read" : read.error().message;
  };
  EXPECT_EQ(why(path), "read");
  EXPECT_EQ(why(folder + "/none"), folder + "/none: cannot be read: there is no such file");
  EXPECT_EQ(why(folder), folder + ": cannot be read: it is a directory, not a key file");
  EXPECT_EQ(why(pipe), pipe + ": cannot be read: it is no regular file, not a key file")
      << "and nobody waits for a writer";
  std::ofstream(path) << std::string(11 << 10, 'x');
  EXPECT_EQ(why(path), path + ": larger than 10.0 KiB, too large for a key file");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace ashlar
