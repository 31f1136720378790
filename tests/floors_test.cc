// Holds the floors of the house: a room includes only rooms below it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;
using Rooms = std::set<std::string>;

// What each room may include besides itself and base; "*" is everything, and
// "engine/generator.h" stands for that header alone.
const std::map<std::string, Rooms> kMayInclude = {
    {"cli", {"*"}},
    {"api", {"engine/generator.h", "engine/embedder.h", "engine/reranker.h", "engine/prefixes.h", "gateway", "agents", "lab", "plan", "models", "retrieval", "guard", "kernels", "text", "net", "store", "ops"}},
    {"gateway", {"engine/generator.h", "engine/embedder.h", "engine/reranker.h", "engine/counted_names.h", "engine/forwarding_generator.h", "engine/load_sum.h", "engine/prefixes.h", "guard", "net", "store", "text", "ops"}},
    {"agents", {"engine/generator.h", "guard", "net", "store", "text", "ops", "retrieval"}},
    {"lab", {"engine/generator.h", "guard", "net", "store", "text", "ops", "retrieval"}},
    {"plan", {"engine/generator.h", "engine/scheduler.h", "guard", "net", "store", "text", "ops"}},
    {"engine", {"models", "kernels", "text"}},
    {"models", {"kernels", "text", "store"}},
    {"retrieval", {"kernels", "text", "store"}},
    {"guard", {"kernels", "text", "store"}},
    {"kernels", {}},
    {"text", {}},
    {"net", {}},
    {"ops", {}},
    {"store", {"net"}},
    {"base", {}},
};

TEST(Floors, EveryIncludePointsDown) {
  const std::regex include(R"re(^\s*#include\s+"(([a-z_0-9]+)/[^"]+)")re");
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator("src")) {
    if (!entry.is_regular_file()) continue;
    const auto extension = entry.path().extension();
    if (extension != ".h" && extension != ".cc") continue;
    const fs::path relative = fs::relative(entry.path(), "src");
    const std::string room = relative.has_parent_path() ? relative.begin()->string() : "main.cc";
    if (room == "main.cc") continue;
    ASSERT_TRUE(kMayInclude.contains(room)) << entry.path() << ": the room '" << room << "' stands on no floor";
    const Rooms& allowed = kMayInclude.at(room);
    ++files;
    std::ifstream in(entry.path());
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string header = match[1], target = match[2];
      const bool fine = target == room || target == "base" || allowed.contains("*") || allowed.contains(target) ||
                        allowed.contains(header);
      EXPECT_TRUE(fine) << entry.path().string() << ":" << number << ": " << room << " may not include " << header;
    }
  }
  EXPECT_GT(files, 20) << "run from the repository's root";
}

TEST(Floors, KernelsForAnInstructionSetIncludeNoTemplates) {
  // An inline function compiled with -mavx512f may be the copy the linker keeps for the whole program.
  const std::set<std::string> plain = {"immintrin.h", "stddef.h", "stdint.h", "string.h", "math.h"};
  const std::regex include(R"re(^\s*#include\s+<([^>]+)>)re");
  for (const auto& entry : fs::directory_iterator("src/kernels/x86")) {
    std::ifstream in(entry.path());
    std::string line;
    while (std::getline(in, line)) {
      std::smatch match;
      if (std::regex_search(line, match, include))
        EXPECT_TRUE(plain.contains(match[1])) << entry.path().string() << " includes <" << match[1] << ">";
    }
  }
}

}  // namespace
