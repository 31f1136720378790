#include "cli/reload.h"

#include <gmock/gmock.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>

namespace ashlar::cli {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

// Remembers what was told.
class HeardEvents final : public gateway::EventLog {
 public:
  void write(gateway::OperatorEvent event) override {
    const std::lock_guard lock(mutex_);
    all_.push_back(std::move(event));
    changed_.notify_all();
  }
  std::vector<gateway::OperatorEvent> wait(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return all_.size() >= count; });
    return all_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<gateway::OperatorEvent> all_;
};

class ReloadTest : public testing::Test {
 protected:
  ReloadTest() {
    std::filesystem::create_directories(folder);
    write("ashlar.yaml", "log_level: info\n");
  }
  ~ReloadTest() override { std::filesystem::remove_all(folder); }

  std::string path(const std::string& name) const { return (folder / name).string(); }
  // As editors do: beside it, then renamed.
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name + ".new")) << text;
    std::filesystem::rename(path(name + ".new"), path(name));
  }
  std::vector<std::string> words() const { return {"--config", path("ashlar.yaml"), "--port", "0"}; }
  ReadServePlan read(const std::string* text = nullptr) const {
    return read_serve_plan(words(), path("ashlar.yaml"), text);
  }

  std::unique_ptr<Reloader> start(std::function<Result<Reloader::Outcome>(const ServePlan&, ServePlan&)> apply) {
    auto [files, plan] = read();
    EXPECT_TRUE(plan);
    return std::make_unique<Reloader>(Reloader::Parts{.read = [this](const std::string* text) { return read(text); },
                                                      .apply = std::move(apply),
                                                      .turn = [this] { ++turns; },
                                                      .events = &events},
                                      std::move(*plan), files,
                                      ReloadOptions{.look = milliseconds(5), .turn = milliseconds(5)});
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("ashlar-reload-" + std::to_string(getpid()) + "-" +
                                                testing::UnitTest::GetInstance()->current_test_info()->name());
  HeardEvents events;
  std::atomic<int> turns = 0;
};

Reloader::Outcome outcome(std::vector<std::string> made) { return {.made = std::move(made), .refused = {}}; }

TEST_F(ReloadTest, AChangedFileIsAppliedAndABrokenOneRefusedWithEveryLine) {
  std::vector<std::string> levels;
  const auto reloader = start([&](const ServePlan& before, ServePlan& next) -> Result<Reloader::Outcome> {
    levels.push_back(before.options.log_level + ">" + next.options.log_level);
    return outcome({"~log"});
  });
  write("ashlar.yaml", "log_level: warn\nport: 9999\nthreads: 3\n");
  auto told = events.wait(1);
  ASSERT_EQ(told.size(), 1);
  EXPECT_EQ(told[0].kind, "config.applied");
  EXPECT_THAT(told[0].message, HasSubstr("~log"));
  // The flag of the command line says the port.
  EXPECT_THAT(told[0].message, HasSubstr("Waiting for a restart: threads."));
  EXPECT_EQ(told[0].severity, gateway::Severity::warning);

  write("ashlar.yaml", "log_level: lower\nlimts: none\nroutes:\n  - {name: a, stratgy: x}\nupstreams:\n  - {url: u}\n");
  told = events.wait(2);
  ASSERT_EQ(told.size(), 2);
  EXPECT_EQ(told[1].kind, "config.refused");
  const Json status = reloader->status();
  const std::string faults = status["last_refusal"]["faults"].dump();
  EXPECT_THAT(faults, HasSubstr("ashlar.yaml:2: no option is called 'limts'; did you mean 'limits'?"));
  EXPECT_THAT(faults, HasSubstr("ashlar.yaml:4: a route has no 'stratgy'"));
  EXPECT_THAT(faults, HasSubstr("ashlar.yaml:6: an upstream needs a 'name'"));
  EXPECT_THAT(faults, HasSubstr("--log-level is debug"));

  write("ashlar.yaml", "log_level: error\n");
  EXPECT_EQ(events.wait(3)[2].kind, "config.applied");
  EXPECT_THAT(levels, ElementsAre("info>warn", "warn>error"));
  EXPECT_TRUE(reloader->status()["last_refusal"].is_null());
  EXPECT_TRUE(reloader->status()["waits_for_restart"].empty());
}

TEST_F(ReloadTest, AFileThatIsSuddenlyEmptyTakesNothingAway) {
  write("ashlar.yaml", "upstreams:\n  - {name: u, url: http://127.0.0.1:1/v1, models: [m]}\n");
  std::vector<std::size_t> upstreams;
  const auto reloader = start([&](const ServePlan&, ServePlan& next) -> Result<Reloader::Outcome> {
    upstreams.push_back(std::exchange(next.gateway.upstreams, {}).size());  // as whoever applies it may
    return outcome({"~"});
  });
  write("ashlar.yaml", "upstreams:\n  - {name: v, url: http://127.0.0.1:1/v1, models: [m]}\n");
  EXPECT_EQ(events.wait(1)[0].kind, "config.applied");
  write("ashlar.yaml", " \n");
  EXPECT_EQ(events.wait(2)[1].kind, "config.refused");
  EXPECT_THAT(events.wait(2)[1].message, HasSubstr("the file is empty"));
  write("ashlar.yaml", "# none for now\n");
  EXPECT_EQ(events.wait(3)[2].kind, "config.applied");
  EXPECT_THAT(upstreams, ElementsAre(1, 0));
}

TEST_F(ReloadTest, FilesThatItNamesAreWatchedAlsoThoseThatAreMissing) {
  const auto reloader = start([](const ServePlan& before, ServePlan& next) -> Result<Reloader::Outcome> {
    return outcome({before.limits_stamp != next.limits_stamp ? "~limits" : "nothing"});
  });
  write("ashlar.yaml", "limits: " + path("limits.yaml") + "\n");
  EXPECT_THAT(events.wait(1)[0].message, HasSubstr("limits.yaml: cannot be read: there is no such file"));
  write("limits.yaml", "limits:\n  - {scope: team, name: rpm, measure: requests, capacity: 5, period: 1m}\n");
  EXPECT_EQ(events.wait(2)[1].details["changes"].dump(), R"(["~limits"])");
  write("limits.yaml", "limits:\n  - {scope: nobody}\n  - {scope: team, kind: strange}\n");
  const std::string why = events.wait(3)[2].message;
  EXPECT_THAT(why, HasSubstr("limits.yaml:2:"));
  EXPECT_THAT(why, HasSubstr("limits.yaml:3:"));
  // It is named no more: what becomes of it is nobody's business.
  write("ashlar.yaml", "log_level: info\n");
  events.wait(4);
  write("limits.yaml", "broken: [");
  const int seen = turns;
  while (turns < seen + 20) std::this_thread::yield();
  EXPECT_EQ(events.wait(4).size(), 4);
}

TEST_F(ReloadTest, WhatCannotBeAppliedIsRefusedAndASignalReadsAnew) {
  bool fit = false;
  std::atomic<int> applied = 0;
  const auto reloader = start([&](const ServePlan&, ServePlan&) -> Result<Reloader::Outcome> {
    ++applied;
    if (!fit) return Error{Code::not_found, "m: no such model"};
    return Reloader::Outcome{.made = {}, .refused = {"the model 'm' stays as it was"}};
  });
  EXPECT_EQ(reloader->reload("key_1").error().message, "m: no such model");
  auto told = events.wait(1);
  EXPECT_EQ(told[0].actor, "key_1");
  fit = true;
  reloader->request();
  told = events.wait(2);
  ASSERT_EQ(told.size(), 2);
  EXPECT_EQ(told[1].kind, "config.applied");
  EXPECT_EQ(told[1].severity, gateway::Severity::warning);
  EXPECT_EQ(reloader->status()["refused_parts"].size(), 1);
  EXPECT_EQ(applied, 2);
}

TEST_F(ReloadTest, ValuesThatNoStartSurvivesAreFaultsWithTheirLines) {
  const std::string text =
      "port: 70000\n\nlog-level: loud\nkv_type: int3\ncounters: mysql://x\ndatabase: mysql://x\n"
      "budget_webhook: nowhere\nkeep_alive: ages\nmodel_versions: 0\ncors_origin: https://a.example/\n";
  const auto read = read_serve_plan({"--config", path("ashlar.yaml")}, path("ashlar.yaml"), &text);
  ASSERT_FALSE(read.plan);
  const std::string& faults = read.plan.error().message;
  for (const char* fault : {"ashlar.yaml:1: port 70000 is not between", "ashlar.yaml:3: --log-level is debug",
                            "ashlar.yaml:4: kv_type is 'int3'", "ashlar.yaml:5: --counters: a Redis address begins",
                            "ashlar.yaml:6: --database: a database is", "ashlar.yaml:7: --budget-webhook: 'nowhere'",
                            "ashlar.yaml:8: --keep-alive: 'ages'", "ashlar.yaml:9: --model-versions: a number",
                            "ashlar.yaml:10: --cors-origin: an origin is"})
    EXPECT_THAT(faults, HasSubstr(fault));
}

TEST_F(ReloadTest, AFaultOfAFlagNamesNoLineOfTheFile) {
  const std::string text = "port: 80\nmax_connections: 5\n";
  const auto read = read_serve_plan({"--port", "70000", "--max-connections", "0", "--config", path("ashlar.yaml")},
                                    path("ashlar.yaml"), &text);
  ASSERT_FALSE(read.plan);
  EXPECT_EQ(read.plan.error().message, "port 70000 is not between 0 and 65535.");
}

TEST_F(ReloadTest, AnOptionThatStandsTwiceIsAFault) {
  const std::string text = "log_level: info\nport: 1\nlog-level: debug\n";
  const auto read = read_serve_plan({"--config", path("ashlar.yaml")}, path("ashlar.yaml"), &text);
  ASSERT_FALSE(read.plan);
  EXPECT_THAT(read.plan.error().message, HasSubstr("ashlar.yaml:3: 'log_level' stands twice"));
}

TEST_F(ReloadTest, ATextIsCheckedWithoutBeingApplied) {
  const auto reloader =
      start([](const ServePlan&, ServePlan&) -> Result<Reloader::Outcome> { return outcome({"no"}); });
  const std::string ours = "ashlar-assistant";  // served where nothing else is named
  EXPECT_TRUE(reloader->check("routes:\n  - {name: a, deployments: [" + ours + "]}\n").empty());
  EXPECT_THAT(reloader->check("routes:\n  - {name: a, deployments: [x]}\n").dump(),
              HasSubstr("ashlar.yaml:2: nobody serves a model 'x'"));
  const Json faults = reloader->check("routes:\n  - {name: a, deployments: [" + ours + "]}\n  - {name: a, deployments: [" +
                                      ours + "], fallbacks: {error: [b]}}\n");
  EXPECT_EQ(faults.size(), 2) << faults;
  EXPECT_THAT(faults.dump(), HasSubstr("ashlar.yaml:3: two routes are called 'a'"));
  EXPECT_THAT(faults.dump(), HasSubstr("ashlar.yaml:3: a fallback leads to 'b', which is no route"));
  EXPECT_EQ(reloader->check("a: [").size(), 1);
  EXPECT_EQ(reloader->check("{1: 2, [a]: b}").size(), 2);
  const auto operations = config_operations(&*reloader);
  ASSERT_EQ(operations.size(), 3);
  std::string answers;
  for (const auto& operation : operations)
    operation.run({.path = {}, .query = {}, .body = Json{{"text", "x: 1"}}, .who = nullptr},
                  [&](auto answer) { answers += answer ? answer->dump() : "fault"; });
  EXPECT_THAT(answers, HasSubstr("no option is called 'x'"));
  EXPECT_THAT(answers, HasSubstr(R"("changes":["no"])"));
}

}  // namespace
}  // namespace ashlar::cli
