#include "cli/model_repository.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace ashlar::cli {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;

class RepositoryTest : public testing::Test {
 protected:
  RepositoryTest() { std::filesystem::create_directories(folder); }
  ~RepositoryTest() override { std::filesystem::remove_all(folder); }

  void put(const std::string& path, const std::string& text = "weights") const {
    std::filesystem::create_directories((folder / path).parent_path());
    std::ofstream(folder / path) << text;
  }
  ModelRepository open(int versions = 1) const {
    return ModelRepository({.model_repository = folder.string(), .model_versions = versions});
  }
  std::vector<std::string> names(const ModelRepository& repository) const {
    std::vector<std::string> out;
    for (const HostedModel& each : repository.chosen())
      out.push_back(each.name + "=" + std::filesystem::relative(each.path, folder).string());
    return out;
  }
  static ModelRepository::TimePoint at(int ms) {
    return ModelRepository::TimePoint() + std::chrono::hours(1) + milliseconds(ms);
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("ashlar-repository-" + std::to_string(getpid()) + "-" +
                                                testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(RepositoryTest, TheHighestVersionIsServedOnceItIsWhole) {
  put("m/1/a.gguf");
  put("m/9/a.gguf");
  put("m/10/model/config.json");
  put("m/011/a.gguf");
  put("m/v12/a.gguf");
  put(".hidden/1/a.gguf");
  put("empty/3/readme.txt");
  auto repository = open();
  EXPECT_TRUE(repository.turn(at(0), true));
  EXPECT_THAT(names(repository), ElementsAre("m=m/10/model"));
  EXPECT_FALSE(repository.turn(at(1), false));

  put("m/11/b.gguf", "half");
  EXPECT_FALSE(repository.turn(at(1000), false));
  put("m/11/b.gguf", "half and more");
  EXPECT_FALSE(repository.turn(at(2500), false));
  EXPECT_FALSE(repository.turn(at(4000), false));
  EXPECT_TRUE(repository.turn(at(4500), false));
  EXPECT_THAT(names(repository), ElementsAre("m=m/11/b.gguf"));
  // It is another one now, which must come to rest as well; the one that was is served meanwhile.
  put("m/11/b.gguf", "something else again");
  EXPECT_FALSE(repository.turn(at(5000), false));
  EXPECT_TRUE(repository.turn(at(7000), false));
}

TEST_F(RepositoryTest, TheOneBeforeComesBack) {
  put("m/1/a.gguf");
  put("m/2/a.gguf");
  put("m/3/a.gguf");
  auto repository = open();
  repository.turn(at(0), true);
  repository.refuse("m");
  EXPECT_TRUE(repository.turn(at(1), false));
  EXPECT_THAT(names(repository), ElementsAre("m=m/2/a.gguf"));
  std::filesystem::remove_all(folder / "m/2");
  EXPECT_TRUE(repository.turn(at(2), false));
  EXPECT_THAT(names(repository), ElementsAre("m=m/1/a.gguf"));
  // Other files under the number that was refused.
  put("m/3/a.gguf", "mended");
  repository.turn(at(3), false);
  EXPECT_TRUE(repository.turn(at(2003), false));
  EXPECT_THAT(names(repository), ElementsAre("m=m/3/a.gguf"));
  std::filesystem::remove_all(folder / "m");
  EXPECT_TRUE(repository.turn(at(3000), false));
  EXPECT_TRUE(repository.chosen().empty());
  // A mount that went has not lost its models.
  put("m/3/a.gguf");
  repository.turn(at(4000), true);
  std::filesystem::rename(folder, folder.string() + ".away");
  EXPECT_FALSE(repository.turn(at(5000), false));
  EXPECT_EQ(repository.chosen().size(), 1);
  std::filesystem::rename(folder.string() + ".away", folder);
}

TEST_F(RepositoryTest, SeveralVersionsAtOnceHaveNamesOfTheirOwn) {
  put("m/1/a.gguf");
  put("m/2/a-00001-of-00002.gguf");
  put("m/2/a-00002-of-00002.gguf");
  put("m/3/a.gguf");
  put("m/3/b.gguf");
  auto repository = open(2);
  repository.turn(at(0), true);
  EXPECT_THAT(names(repository), ElementsAre("m@2=m/2/a-00001-of-00002.gguf", "m@1=m/1/a.gguf"));
  EXPECT_EQ(repository.aliases().at("m"), "m@2");
  EXPECT_EQ(open(0).check().error().code, Code::invalid);
  EXPECT_EQ(ModelRepository({.model_repository = "/nowhere"}).check().error().code, Code::not_found);
}

}  // namespace
}  // namespace ashlar::cli
