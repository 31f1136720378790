// The folder of packed weights: what is kept is what is found, and whatever
// happens to its files, the model is served.
#include "models/packed_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "models/loader.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Origin = PackedImage::Origin;
using testing::HasSubstr;

std::string read_all(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_all(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

const auto kNeverStopped = [] { return false; };

class PackedCacheTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path kept_folder() const { return folder_ / "packed"; }
  std::vector<fs::path> kept() const {
    std::vector<fs::path> out;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(kept_folder(), none)) out.push_back(entry.path());
    std::ranges::sort(out);
    return out;
  }
  PackedCache cache(Bytes most = 1_GiB) const { return PackedCache(kept_folder(), most, {0}); }

  // Loads the model, waits for its weights to be kept, and gives its logits after three tokens.
  std::vector<float> logits(const PackedCache& cache, Origin& origin, const char* name = "m.gguf") {
    auto loaded = load(folder_ / name, {.packed_cache = cache}, pool_);
    EXPECT_TRUE(loaded) << loaded.error().message;
    if (!loaded) return {};
    origin = loaded->weights;
    auto kv = loaded->model->make_kv_store(2, KvType::f16);
    const std::vector<std::int32_t> tokens{3, 1, 4};
    const std::vector<int> blocks{1}, rows{2};
    const std::vector<Step::Sequence> sequences{{.first_row = 0, .rows = 3, .first_position = 0, .blocks = blocks}};
    std::vector<float> out(static_cast<std::size_t>(loaded->shape.vocabulary));
    loaded->model->forward({tokens, sequences, rows, out}, **kv);
    return out;
  }
  void write_model(const TinySpec& spec, const char* name = "m.gguf") {
    ASSERT_TRUE(TinyModel(spec).writer().write(folder_ / name));
  }

  // A sealed image of some bytes, the same for the same seed.
  std::shared_ptr<PackedImage> image(unsigned seed, std::size_t bytes = 5000) {
    const std::size_t sections[] = {bytes, 64, bytes / 2};
    auto made = PackedImage::allocate(sections);
    std::mt19937 random(seed);
    for (std::size_t i = 0; i < 3; ++i)
      for (std::byte& b : (*made)->room(i)) b = static_cast<std::byte>(random());
    (*made)->seal({seed, 7}, pool_);
    return *made;
  }
  Result<std::shared_ptr<PackedImage>> open(const std::string& path, unsigned seed, std::size_t bytes = 5000) {
    const std::size_t sections[] = {bytes, 64, bytes / 2};
    return PackedImage::open(path, {seed, 7}, sections, pool_);
  }

  ThreadPool pool_{2};
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_packed_" + std::to_string(::getpid()));
};

TEST_F(PackedCacheTest, TheSecondStartFindsWhatTheFirstKept) {
  for (const bool tied : {false, true}) {
    write_model({.tied = tied});
    Origin first{}, second{};
    const auto before = logits(cache(), first);
    ASSERT_EQ(kept().size(), 1u);
    const auto after = logits(cache(), second);
    EXPECT_EQ(first, Origin::fresh);
    EXPECT_NE(second, Origin::fresh);
    EXPECT_EQ(before, after);
  }
}

TEST_F(PackedCacheTest, LargeImagesComeBackByteForByte) {
  constexpr std::size_t kBytes = 5 << 20;
  const auto made = image(1, kBytes);
  const std::string path = kept_folder() / "large.packed";
  ASSERT_TRUE(cache().keep(path, *made, kNeverStopped));
  for (int round = 0; round < 2; ++round) {
    const auto found = open(path, 1, kBytes);
    ASSERT_TRUE(found) << found.error().message;
    ASSERT_EQ((*found)->bytes().size(), made->bytes().size());
    EXPECT_EQ(std::memcmp((*found)->bytes().data(), made->bytes().data(), made->bytes().size()), 0);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_EQ(std::memcmp((*found)->section(i).data(), made->section(i).data(), made->section(i).size()), 0);
    // Written in small pieces the file lies on small pages, and is copied.
    const std::string bytes = read_all(path);
    std::ofstream out(path, std::ios::binary);
    for (std::size_t at = 0; at < bytes.size(); at += 4096) out.write(bytes.data() + at, 4096).flush();
  }
}

TEST_F(PackedCacheTest, AReplacedModelIsPackedAgain) {
  write_model({.seed = 1});
  Origin origin{};
  const auto first = logits(cache(), origin);
  write_model({.seed = 2});
  const auto second = logits(cache(), origin);
  EXPECT_EQ(origin, Origin::fresh);
  EXPECT_NE(first, second);
  EXPECT_EQ(kept().size(), 1u) << "the older state's weights are removed";
  EXPECT_EQ(logits(cache(), origin), second);
  EXPECT_NE(origin, Origin::fresh);
}

TEST_F(PackedCacheTest, BrokenFilesAreNoticedAndReplaced) {
  write_model({});
  Origin origin{};
  const auto good = logits(cache(), origin);
  ASSERT_EQ(kept().size(), 1u);
  const fs::path path = kept().front();
  const std::string bytes = read_all(path);
  const auto broken_by = [&](const std::string& wrong) {
    write_all(path, wrong);
    EXPECT_EQ(logits(cache(), origin), good);
    EXPECT_EQ(origin, Origin::fresh);
    EXPECT_EQ(read_all(path), bytes) << "kept again";
  };
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{55}, std::size_t{60}, std::size_t{4096},
                                 bytes.size() - 4096, bytes.size() - 1})
    broken_by(bytes.substr(0, size));
  broken_by(bytes + std::string(4096, '\0'));
  broken_by(bytes.substr(0, 8192) + std::string(4096, '\0') + bytes.substr(12288));  // a page that was never written
}

TEST_F(PackedCacheTest, EveryBitOfTheHeaderCounts) {
  const auto made = image(1);
  const std::uint64_t size = made->bytes().size();
  const std::vector<std::byte> good(made->bytes().begin(), made->bytes().begin() + 4096);
  const auto header = parse_packed_header(good, size);
  ASSERT_TRUE(header) << header.error().message;
  EXPECT_THAT(header->sections, testing::ElementsAre(5000, 64, 2500));
  EXPECT_EQ(header->key, (PackedKey{1, 7}));
  constexpr std::size_t kHeader = 56 + 3 * 8;
  for (std::size_t bit = 0; bit < 8 * kHeader; ++bit) {
    std::vector<std::byte> wrong = good;
    wrong[bit / 8] ^= std::byte{1} << bit % 8;
    EXPECT_FALSE(parse_packed_header(wrong, size)) << bit;
  }
  for (std::size_t cut = 0; cut < kHeader; ++cut)
    EXPECT_FALSE(parse_packed_header(std::span(good).first(cut), size)) << cut;
  EXPECT_FALSE(parse_packed_header(good, size + 4096));
}

TEST_F(PackedCacheTest, AnothersWeightsAreRefused) {
  const std::string path = folder_ / "one.packed";
  const auto made = image(1);
  write_all(path, std::string(reinterpret_cast<const char*>(made->bytes().data()), made->bytes().size()));
  EXPECT_THAT(open(path, 2).error().message, HasSubstr("of another model"));
  const std::size_t other_sizes[] = {5000, 128, 2500};
  EXPECT_THAT(PackedImage::open(path, {1, 7}, other_sizes, pool_).error().message, HasSubstr("other sizes"));
  ::chmod(path.c_str(), 0666);
  EXPECT_THAT(open(path, 1).error().message, HasSubstr("another user"));
  EXPECT_EQ(open(folder_, 1).error().code, Code::corrupt);
  EXPECT_EQ(open(folder_ / "none", 1).error().code, Code::not_found);
}

TEST_F(PackedCacheTest, AFolderThatCannotBeWrittenStopsNothing) {
  write_model({});
  write_all(folder_ / "file", "not a folder");
  Origin origin{};
  EXPECT_FALSE(logits(PackedCache(folder_ / "file" / "packed", 1_GiB, {0}), origin).empty());
  EXPECT_FALSE(logits(PackedCache("/proc/packed", 1_GiB, {0}), origin).empty());
  EXPECT_EQ(origin, Origin::fresh);
  EXPECT_EQ(cache().keep(folder_ / "file" / "x.packed", *image(1), kNeverStopped).error().code, Code::io);
}

TEST_F(PackedCacheTest, AWriteThatFailsLeavesNothing) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  {
    PackedKeeper keeper(cache(), kept_folder() / "large.packed", image(1, 1 << 20));
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(kept().empty());
  EXPECT_EQ(cache().keep(kept_folder() / "x.packed", *image(1), [] { return true; }).error().code, Code::cancelled);
  EXPECT_TRUE(kept().empty());
}

TEST_F(PackedCacheTest, TwoWritersLeaveOneWholeFile) {
  const auto made = image(1, 4 << 20);
  const std::string path = kept_folder() / "one.packed";
  fs::create_directories(kept_folder());
  write_all(path + ".tmp", "left by one that was killed");
  std::vector<std::thread> writers;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&] {
      const auto done = cache().keep(path, *made, kNeverStopped);
      if (done)
        ++good;
      else
        EXPECT_EQ(done.error().code, Code::cancelled) << done.error().message;
    });
  for (std::thread& writer : writers) writer.join();
  EXPECT_GE(good.load(), 1);
  EXPECT_EQ(kept().size(), 1u);
  EXPECT_TRUE(open(path, 1, 4 << 20));
}

TEST_F(PackedCacheTest, WhatIsUnusedForLongestMakesRoom) {
  const auto name = [&](int i) { return (kept_folder() / ("m" + std::to_string(i) + "-0-0.packed")).string(); };
  const std::uint64_t bytes = image(0)->bytes().size();
  const PackedCache three(kept_folder(), {3 * bytes}, {0});
  EXPECT_FALSE(three.wants({3 * bytes + 1}));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(three.keep(name(i), *image(static_cast<unsigned>(i)), kNeverStopped));
    fs::last_write_time(name(i), fs::file_time_type::clock::now() - 100s + i * 1s);
  }
  write_all(name(7) + ".tmp", "an orphan");
  const std::size_t sections[] = {5000, 64, 2500};
  ASSERT_NE(three.find(name(0), {0, 7}, sections, pool_), nullptr);  // used just now
  ASSERT_TRUE(three.keep(name(3), *image(3), kNeverStopped));
  EXPECT_THAT(kept(), testing::ElementsAre(name(0), name(2), name(3)));
}

TEST_F(PackedCacheTest, OptionsNameTheFolder) {
  ::setenv("ASHLAR_CACHE", "/a", 1);
  ::setenv("XDG_CACHE_HOME", "/b", 1);
  const char* home = std::getenv("HOME");
  const std::string had = home == nullptr ? "" : home;
  ::setenv("HOME", "/c", 1);
  write_model({});
  const auto file = gguf::File::open(folder_ / "m.gguf");
  const auto folder = [&](const char* option) {
    const auto cache = PackedCache::from({.packed_cache = option});
    return cache ? fs::path(cache->path(*file, {})).parent_path().string() : "";
  };
  EXPECT_EQ(folder("off"), "");
  EXPECT_EQ(folder("/x"), "/x/packed");
  EXPECT_EQ(folder("auto"), "/a/packed");
  ::unsetenv("ASHLAR_CACHE");
  EXPECT_EQ(folder("auto"), "/b/ashlar/packed");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(folder("auto"), "/c/.cache/ashlar/packed");
  ::unsetenv("HOME");
  EXPECT_EQ(folder("auto"), "");
  if (home != nullptr) ::setenv("HOME", had.c_str(), 1);
}

TEST_F(PackedCacheTest, FilesInMemoryHaveNoKey) {
  write_model({});
  const std::string bytes = read_all(folder_ / "m.gguf");
  const auto view = std::as_bytes(std::span(bytes));
  const auto file = gguf::File::in_memory({view.begin(), view.end()}, "m");
  EXPECT_EQ(PackedCache::key(*file), std::nullopt);
}

}  // namespace
}  // namespace ashlar::models
