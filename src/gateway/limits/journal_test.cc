#include "gateway/limits/journal.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "gateway/limits/journal_format.h"
#include "gateway/limits/orphans.h"
#include "store/databases_for_test.h"

namespace ashlar::gateway {
namespace {

using End = UsageRecord::End;

constexpr Price kPrice{.input = 1'000'000'000,
                       .cached_input = 500'000'000,
                       .cache_write = 1'250'000'000,
                       .output = 2'000'000'000,
                       .reasoning = 2'000'000'000,
                       .cache_write_1h = 2'000'000'000};
constexpr Measure kMeasures[] = {Measure::tokens, Measure::seats, Measure::money};

UsageRecord record(const std::string& id) {
  return {.reservation = id,
          .request = "chatcmpl-" + id,
          .subject = {.key = "k1",
                      .user = "ann",
                      .team = "search",
                      .tenant = "t",
                      .tags = {{"project", "x"}, {"tier", "free"}}},
          .given_id = "client-" + id,
          .model = "m",
          .begun_utc_ms = 1'700'000'000'000};
}

class JournalTest : public testing::Test {
 protected:
  std::shared_ptr<Journal> make(std::uint32_t step = 64, std::uint32_t most = 1024) {
    auto made = Journal::create({.folder = folder.path(), .database = "db", .step = step, .most = most},
                                [this](const UsageRecord& one, Journal::Slot slot) { ends.emplace_back(one, slot); });
    EXPECT_TRUE(made) << made.error().message;
    return std::move(*made);
  }
  std::vector<Orphan> orphans(const std::string& database = "db") {
    return OrphanSearch::begin(folder.path())->orphans(database);
  }
  // What `work` leaves behind in a process that is killed in the midst of it.
  void kill_after(auto work) {
    const pid_t child = ::fork();
    if (child == 0) {
      work();
      ::raise(SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  std::string only_file() {
    for (const auto& each : std::filesystem::directory_iterator(folder.path())) return each.path();
    return "";
  }

  store::FolderForTest folder;
  std::vector<std::pair<UsageRecord, Journal::Slot>> ends;
};

TEST_F(JournalTest, WhoComesAfterAKillFindsWhatEachClientHadGot) {
  kill_after([this] {
    auto journal = make();
    auto begun = journal->open(record("begun"), kPrice, kMeasures);
    auto cut = journal->open(record("cut"), kPrice, kMeasures);
    cut->prompt({.prompt = 100, .cached = 40, .written = 20, .hour = 8});
    cut->delivered() = 7;
    auto over = journal->open(record("over"), kPrice, kMeasures);
    UsageRecord all = record("over");
    all.use = {.prompt = 5, .cached = 1, .written = 2, .completion = 9, .reasoning = 3};
    all.cost = 12345;
    all.seconds = 1.5;
    over->prompt({.prompt = 5, .cached = 1});
    over->end(all);
    over->delivered() = OpenUsage::kAll;
    auto unsent = journal->open(record("unsent"), std::nullopt, {});
    unsent->prompt({.prompt = 5});
    unsent->delivered() = 8;
    unsent->end(all);  // its last piece was not handed over
    ::raise(SIGKILL);
  });
  const auto found = orphans();
  ASSERT_EQ(found.size(), 1u);
  std::map<std::string, JournalRow> rows;
  for (const JournalRow& row : found[0].rows()) rows[row.record.reservation] = row;
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows["begun"].record.use, TokenUse{}) << "who got nothing pays nothing";
  EXPECT_EQ(rows["begun"].record.end, End::interrupted);
  EXPECT_EQ(rows["cut"].record.use, (TokenUse{.prompt = 100, .cached = 40, .written = 20, .hour = 8, .completion = 7}));
  EXPECT_EQ(rows["cut"].record.cost, 40'000 + 20'000 + 15'000 + 16'000 + 14'000);
  EXPECT_EQ(rows["cut"].record.given_id, "client-cut");
  EXPECT_EQ(rows["cut"].measures, std::vector(std::begin(kMeasures), std::end(kMeasures)));
  EXPECT_EQ(rows["cut"].record.subject.user, "ann");
  EXPECT_EQ(rows["cut"].record.subject.tags, record("x").subject.tags);
  EXPECT_EQ(rows["cut"].record.model, "m");
  EXPECT_EQ(rows["cut"].record.begun_utc_ms, 1'700'000'000'000);
  EXPECT_EQ(rows["over"].record.end, End::finished);
  EXPECT_EQ(rows["over"].record.use,
            (TokenUse{.prompt = 5, .cached = 1, .written = 2, .completion = 9, .reasoning = 3}));
  EXPECT_EQ(rows["over"].record.cost, 12345);
  EXPECT_EQ(rows["over"].record.seconds, 1.5);
  EXPECT_EQ(rows["unsent"].record.end, End::interrupted);
  EXPECT_EQ(rows["unsent"].record.use.completion, 8);
  EXPECT_EQ(rows["unsent"].record.cost, 0) << "it had no price";
}

TEST_F(JournalTest, AnEndIsToldWhenTheLastLetsGo) {
  auto journal = make();
  auto open = journal->open(record("a"), kPrice, kMeasures);
  const std::shared_ptr<std::atomic<std::uint64_t>> on_its_way(open, &open->delivered());
  open->end(record("a"));
  open.reset();
  EXPECT_TRUE(ends.empty()) << "a piece is on its way";
  std::exchange(const_cast<std::shared_ptr<std::atomic<std::uint64_t>>&>(on_its_way), nullptr);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].first.reservation, "a");
  EXPECT_EQ(journal->used(), 1u) << "until its row is durable";
  EXPECT_EQ(journal->read(ends[0].second)->reservation, "a");
  journal->free(ends[0].second);
  EXPECT_EQ(journal->used(), 0u);
}

TEST_F(JournalTest, WhatNeverRanLeavesNothing) {
  auto journal = make();
  journal->open(record("a"), kPrice, kMeasures).reset();
  EXPECT_TRUE(ends.empty());
  EXPECT_EQ(journal->used(), 0u);
}

TEST_F(JournalTest, TheFileGoesIfNothingIsInIt) {
  auto journal = make();
  auto open = journal->open(record("a"), kPrice, kMeasures);
  const std::string file = journal->path();
  journal->retire();
  journal.reset();
  EXPECT_TRUE(std::filesystem::exists(file)) << "the request shares it";
  open->end(record("a"));
  open.reset();
  EXPECT_TRUE(std::filesystem::exists(file)) << "nobody took its end";
  const auto found = orphans();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rows()[0].record.end, End::finished);
  auto next = make();
  const std::string second = next->path();
  next.reset();
  EXPECT_FALSE(std::filesystem::exists(second));
}

TEST_F(JournalTest, TheLivingAndStrangersAreLeftAlone) {
  auto journal = make();
  auto open = journal->open(record("a"), kPrice, kMeasures);
  EXPECT_TRUE(orphans().empty()) << "it lives";
  kill_after([this] {
    auto mine = make();
    auto lost = mine->open(record("b"), kPrice, kMeasures);
    ::raise(SIGKILL);
  });
  EXPECT_TRUE(orphans("another database").empty());
  auto found = orphans();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(orphans().empty()) << "it is held";
  found[0].remove();
  found.clear();
  EXPECT_TRUE(orphans().empty());
}

TEST_F(JournalTest, LongNamesTakeMoreSlots) {
  UsageRecord large = record("large");
  large.subject.user = std::string(600, 'u');
  for (int i = 0; i < 40; ++i) large.subject.tags.emplace_back("tag" + std::to_string(i), std::string(500, 'v'));
  kill_after([&] {
    auto journal = make(16);
    auto other = journal->open(record("small"), kPrice, kMeasures);
    auto open = journal->open(large, kPrice, kMeasures);
    open->delivered() = 3;
    ::raise(SIGKILL);
  });
  const auto found = orphans();
  ASSERT_EQ(found.size(), 1u);
  ASSERT_EQ(found[0].rows().size(), 2u);
  for (const JournalRow& row : found[0].rows()) {
    if (row.record.reservation != "large") continue;
    EXPECT_EQ(row.record.subject.user, std::string(512, 'u')) << "as its row would be";
    EXPECT_EQ(row.record.subject.tags.size(), 32u);
    EXPECT_EQ(row.record.subject.tags.back().second, std::string(500, 'v'));
  }
}

TEST_F(JournalTest, GrowsAndReusesAndSaysWhenItIsFull) {
  auto journal = make(4, 8);
  std::vector<std::shared_ptr<OpenUsage>> open;
  for (int i = 0; i < 8; ++i)
    ASSERT_TRUE(open.emplace_back(journal->open(record(std::to_string(i)), kPrice, kMeasures)));
  EXPECT_TRUE(journal->health());
  EXPECT_EQ(journal->open(record("9"), kPrice, kMeasures), nullptr);
  EXPECT_FALSE(journal->health());
  open.pop_back();
  EXPECT_NE(journal->open(record("9"), kPrice, kMeasures), nullptr);
  EXPECT_TRUE(journal->health());
}

TEST_F(JournalTest, ADiskWithoutRoomIsAnErrorAndNoCrash) {
  auto journal = make(4, 64);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{.rlim_cur = journal::kHeader + 4 * journal::kSlot + 100, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::vector<std::shared_ptr<OpenUsage>> open;
  for (int i = 0; i < 4; ++i)
    EXPECT_TRUE(open.emplace_back(journal->open(record(std::to_string(i)), kPrice, kMeasures)));
  EXPECT_EQ(journal->open(record("5"), kPrice, kMeasures), nullptr);
  const auto none = Journal::create({.folder = folder.path(), .database = "db"}, nullptr);
  ::setrlimit(RLIMIT_FSIZE, &before);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::io);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "nothing half made is left";
}

// Every bit of a slot that is flipped is found out, or harmless: never another's name, price or end.
TEST_F(JournalTest, DamageIsKnownAsSuch) {
  kill_after([this] {
    auto journal = make(4, 4);
    auto open = journal->open(record("a"), kPrice, kMeasures);
    open->prompt({.prompt = 10});
    open->delivered() = 5;
    ::raise(SIGKILL);
  });
  std::ifstream in(only_file(), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  ASSERT_EQ(read_journal(whole)->rows.size(), 1u);
  std::size_t at = journal::kHeader;
  while (whole[at] == 0 && whole[at + 1] == 0) at += journal::kSlot;
  for (std::size_t bit = 0; bit < journal::kSlot * 8; ++bit) {
    std::string damaged = whole;
    damaged[at + bit / 8] = static_cast<char>(damaged[at + bit / 8] ^ (1 << bit % 8));
    const auto text = read_journal(damaged);
    ASSERT_TRUE(text);
    for (const JournalRow& row : text->rows) {
      EXPECT_EQ(row.record.reservation, "a");
      EXPECT_EQ(row.record.subject.user, "ann");
      EXPECT_EQ(row.record.end, End::interrupted);
    }
  }
  for (std::size_t size = 0; size < whole.size(); size += 511)
    (void)read_journal(std::string_view(whole).substr(0, size));
  EXPECT_EQ(read_journal("ASHLARJ9" + whole.substr(8)).error().code, Code::unsupported);
  EXPECT_EQ(read_journal("nonsense").error().code, Code::corrupt);
}

// A slot that version 1 left: 100 tokens of a prompt, 40 of them cached, and one of the answer.
constexpr std::string_view kOfVersionOne =
    "819ea2d9ed44a42d010000000000000064000000280000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000d5e28803a20100000010a5d4"
    "e80000000088526a7400000000204aa9d101000000204aa9d101000053000000000000000100010003000000000000000000"
    "0000000000000000000000000000000000000000000000000000200061623062623965366538386163363531373233313036"
    "353630303030303030311d00636861742d613939616530343131613130326432633565636264626266000000000000000008"
    "006f6e652f66616b65";

// And version 2: 20 more tokens that a cache was written with, and two of the answer.
constexpr std::string_view kOfVersionTwo =
    "ddb41bc818886da8020000000000000064000000280000000000000000000000140000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000079925804a20100000010a5d4e800000000e87648170000000054ce092301000000204aa9d101000000204aa9d101"
    "00005b0000000000000001000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "200037633533326262363530326631383231333338326263313530303030303030311d00636861742d613030613563383861"
    "30326261616662393430666463663700000000000000000600636c617564650800636c69656e742d32";

// A journal of an older version with one slot, in hexadecimal digits.
std::string journal_of(char version, std::string_view slot) {
  const journal::Header header = journal::header_of("db");
  std::string file(journal::kHeader + journal::kSlot, '\0');
  std::memcpy(file.data(), &header, sizeof header);
  file[7] = version;
  for (std::size_t i = 0; i < slot.size(); i += 2)
    file[journal::kHeader + i / 2] = static_cast<char>(std::stoi(std::string(slot.substr(i, 2)), nullptr, 16));
  return file;
}

TEST_F(JournalTest, WhatVersionTwoLeftIsRead) {
  std::string file = journal_of('2', kOfVersionTwo);
  const auto read = read_journal(file);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->rows.size(), 1u);
  const UsageRecord& row = read->rows[0].record;
  EXPECT_EQ(row.model, "claude");
  EXPECT_EQ(row.given_id, "client-2");
  EXPECT_EQ(row.use, (TokenUse{.prompt = 100, .cached = 40, .written = 20, .completion = 2}));
  EXPECT_EQ(row.cost, 40'000'000 + 4'000'000 + 25'000'000 + 4'000'000);
  for (const char other : {'1', '3'}) {
    file[7] = other;
    EXPECT_EQ(read_journal(file)->rows.size(), 0u) << "its checksums are of another layout";
  }
}

TEST_F(JournalTest, WhatVersionOneLeftIsRead) {
  std::string file = journal_of('1', kOfVersionOne);
  const auto read = read_journal(file);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->rows.size(), 1u);
  const UsageRecord& row = read->rows[0].record;
  EXPECT_EQ(row.model, "one/fake");
  EXPECT_EQ(row.given_id, "");
  EXPECT_EQ(row.end, End::interrupted);
  EXPECT_EQ(row.use, (TokenUse{.prompt = 100, .cached = 40, .completion = 1}));
  EXPECT_EQ(row.cost, 60'000'000 + 20'000'000 + 2'000'000);
  EXPECT_EQ(read->rows[0].measures, std::vector{Measure::money});
  file[7] = '2';
  EXPECT_EQ(read_journal(file)->rows.size(), 0u) << "its checksums are of another layout";
}

TEST_F(JournalTest, ManyThreadsShareIt) {
  std::mutex mutex;
  std::vector<Journal::Slot> over;
  auto made = Journal::create({.folder = folder.path(), .database = "db", .step = 8, .most = 256},
                              [&](const UsageRecord&, Journal::Slot slot) {
                                const std::lock_guard lock(mutex);
                                over.push_back(slot);
                              });
  ASSERT_TRUE(made);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        std::mt19937 random(static_cast<unsigned>(t));
        for (int i = 0; i < 300; ++i) {
          UsageRecord one = record(std::to_string(t) + "-" + std::to_string(i));
          one.subject.user.assign(random() % 500, 'x');
          auto open = (*made)->open(one, kPrice, kMeasures);
          if (!open) continue;
          open->delivered() = static_cast<std::uint64_t>(i);
          if (random() % 3 != 0) open->end(one);
          open.reset();
          const std::lock_guard lock(mutex);
          for (const Journal::Slot slot : std::exchange(over, {})) {
            EXPECT_TRUE((*made)->read(slot));
            (*made)->free(slot);
          }
        }
      });
  }
  EXPECT_EQ((*made)->used(), 0u);
}

}  // namespace
}  // namespace ashlar::gateway
