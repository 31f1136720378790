#include "gateway/rollout/graders.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/threads.h"
#include "gateway/rollout/score_text.h"
#include "gateway/routing/prompt_text.h"
#include "store/counters.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostText = 32 << 10;  // of a question, of an answer and of what a judge says
constexpr std::size_t kMostWaiting = 200;    // answers, of all routes
constexpr int kLeastUrgent = 1'000'000;
constexpr std::chrono::milliseconds kGrace{1'000}, kLook{1'000};

void append(std::string& out, std::string_view more) {
  out += more.substr(0, kMostText - std::min(kMostText, out.size()));
}

bool allows(const JudgePlan& plan, const engine::Request& request) {
  return std::ranges::all_of(request.sender.data_classes, [&](const std::string& each) {
    return std::ranges::find(plan.data_classes, each) != plan.data_classes.end();
  });
}

struct Job {
  GradedSide side;
  JudgePlan plan;
  std::string question, answer;
  std::vector<std::string> data_classes;
};

engine::Request request_of(const Job& job, TimePoint now) {
  engine::Request out;
  out.id = std::string(kJudgeRequests) + store::new_reservation_id();
  out.model = job.plan.model;
  out.tenant = kJudgeUser;
  out.priority = kLeastUrgent;
  engine::Chat chat;
  chat.messages = std::make_shared<const Json>(
      Json::array({{{"role", "user"}, {"content", judge_prompt(job.plan.prompt, job.question, job.answer)}}}));
  out.prompt.input = std::move(chat);
  out.sampling.temperature = 0;
  out.stopping.max_tokens = job.plan.max_tokens;
  out.sender.user = kJudgeUser;
  out.sender.tags = {{"route", job.side.route}};
  out.sender.data_classes = job.data_classes;
  out.sender.cache_control = "no-store";
  out.arrived = now;
  out.deadline = now + job.plan.timeout;
  return out;
}

// Of a route, for as long as the process runs.
struct Figures {
  explicit Figures(const std::string& route)
      : scored(kName, kHelp, {{"route", route}, {"outcome", "scored"}}),
        unclear(kName, kHelp, {{"route", route}, {"outcome", "unclear"}}),
        failed(kName, kHelp, {{"route", route}, {"outcome", "failed"}}),
        dropped(kName, kHelp, {{"route", route}, {"outcome", "dropped"}}) {}
  static constexpr const char* kName = "gateway_rollout_judged_total";
  static constexpr const char* kHelp = "Answers that a rollout's judge was to score, by what became of it.";
  Counter scored, unclear, failed, dropped;
  // The graders' lock:
  int running = 0;
  TimePoint hour{};
  int this_hour = 0;
  std::int64_t asked = 0;
};

}  // namespace

// One question. Its lock is not held while a generator is called.
class Graders::Asking final : public engine::Sink {
 public:
  Asking(std::shared_ptr<Core> core, Job job) : core_(std::move(core)), job_(std::move(job)) {}

  void on(engine::Event event) override;
  // On the graders' thread.
  void ask(engine::Generator& generator, TimePoint now);
  // Whether it is over; then what was said, or why nothing was.
  std::optional<Result<std::string>> look(TimePoint now);
  void drop() { ticket_.reset(); }
  const GradedSide& side() const { return job_.side; }

 private:
  const std::shared_ptr<Core> core_;
  const Job job_;
  std::unique_ptr<engine::Ticket> ticket_;  // the graders' thread
  TimePoint until_{};
  std::mutex mutex_;
  std::string text_;  // GUARDED_BY(mutex_), as is the rest
  std::optional<Error> failed_;
  bool over_ = false;
};

// One lock; no generator is called under it.
class Graders::Core : public std::enable_shared_from_this<Graders::Core> {
 public:
  explicit Core(GradersOptions options) : options_(std::move(options)) {}

  const GradersOptions& options() const { return options_; }
  bool ready() const {
    const std::lock_guard lock(mutex_);
    return generator_ != nullptr;
  }
  void use(engine::Generator* generator);
  void add(Job job);
  void wake() {
    const std::lock_guard lock(mutex_);
    awake_ = true;
    due_.notify_all();
  }
  Json figures(const std::string& route) const;
  bool turn();  // whether somebody is asked still
  void begin();
  void end();

 private:
  void work();
  Figures& of(const std::string& route);  // under the lock
  // The next job that may be asked now. Under the lock.
  std::optional<Job> next(TimePoint now);
  void take(const GradedSide& side, const Result<std::string>& said);

  const GradersOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable due_;
  engine::Generator* generator_ = nullptr;  // GUARDED_BY(mutex_), as is the rest
  std::deque<Job> waiting_;
  std::map<std::string, std::unique_ptr<Figures>> figures_;
  bool awake_ = false, stopping_ = false, complained_ = false;
  std::mutex turning_;                              // held while generators are called
  std::vector<std::shared_ptr<Asking>> under_way_;  // GUARDED_BY(turning_)
  std::thread thread_;
};

void Graders::Asking::on(engine::Event event) {
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    if (const auto* text = std::get_if<engine::Text>(&event)) {
      if (text->choice == 0) append(text_, text->text);
    } else if (auto* failed = std::get_if<engine::Failed>(&event)) {
      failed_ = std::move(failed->error);
      over = over_ = true;
    } else if (std::holds_alternative<engine::Finished>(event)) {
      over = over_ = true;
    }
  }
  if (over) core_->wake();
}

void Graders::Asking::ask(engine::Generator& generator, TimePoint now) {
  until_ = now + job_.plan.timeout + kGrace;
  auto started = generator.start(request_of(job_, now), *this);
  if (started) {
    ticket_ = std::move(*started);
    return;
  }
  const std::lock_guard lock(mutex_);
  failed_ = std::move(started.error().error);
  over_ = true;
}

std::optional<Result<std::string>> Graders::Asking::look(TimePoint now) {
  {
    const std::lock_guard lock(mutex_);
    if (!over_ && now < until_) return std::nullopt;
    if (!over_) failed_ = Error{Code::deadline, "the judge did not answer in time"};
    over_ = true;
  }
  ticket_.reset();
  if (failed_) return Result<std::string>(std::unexpected(*failed_));
  return Result<std::string>(std::move(text_));
}

Figures& Graders::Core::of(const std::string& route) {
  auto& found = figures_[route];
  if (found == nullptr) found = std::make_unique<Figures>(route);
  return *found;
}

void Graders::Core::add(Job job) {
  const std::lock_guard lock(mutex_);
  if (generator_ == nullptr || stopping_) return;
  if (waiting_.size() >= kMostWaiting) return of(job.side.route).dropped.add();
  waiting_.push_back(std::move(job));
  awake_ = true;
  due_.notify_all();
}

std::optional<Job> Graders::Core::next(TimePoint now) {
  for (auto job = waiting_.begin(); job != waiting_.end();) {
    Figures& figures = of(job->side.route);
    if (now - figures.hour >= std::chrono::hours(1)) {
      figures.hour = now;
      figures.this_hour = 0;
    }
    if (figures.this_hour >= job->plan.most_per_hour) {
      figures.dropped.add();
      job = waiting_.erase(job);
    } else if (figures.running >= job->plan.concurrency) {
      ++job;
    } else {
      ++figures.running;
      ++figures.this_hour;
      ++figures.asked;
      std::optional<Job> out = std::move(*job);
      waiting_.erase(job);
      return out;
    }
  }
  return std::nullopt;
}

void Graders::Core::take(const GradedSide& side, const Result<std::string>& said) {
  const auto score = said ? read_score(*said) : std::nullopt;
  {
    const std::lock_guard lock(mutex_);
    Figures& figures = of(side.route);
    --figures.running;
    (score ? figures.scored : said ? figures.unclear : figures.failed).add();
    if (!score && !std::exchange(complained_, true))
      log::warn("rollout_judge",
                {{"route", side.route}, {"why", said ? "it says no number from 0 to 1" : said.error().message}});
    if (score) complained_ = false;
  }
  if (score) options_.scored(side, *score);
}

bool Graders::Core::turn() {
  const std::lock_guard turning(turning_);
  const TimePoint now = options_.now();
  {
    const std::lock_guard lock(mutex_);
    awake_ = false;
  }
  std::erase_if(under_way_, [&](const auto& asking) {
    const auto said = asking->look(now);
    if (said) take(asking->side(), *said);
    return said.has_value();
  });
  for (;;) {
    engine::Generator* generator = nullptr;
    std::optional<Job> job;
    {
      const std::lock_guard lock(mutex_);
      generator = generator_;
      if (generator != nullptr) job = next(now);
    }
    if (!job) return !under_way_.empty();
    const GradedSide side = job->side;
    under_way_.push_back(std::make_shared<Asking>(shared_from_this(), std::move(*job)));
    under_way_.back()->ask(*generator, now);
    if (const auto said = under_way_.back()->look(now)) {
      under_way_.pop_back();
      take(side, *said);
    }
  }
}

void Graders::Core::use(engine::Generator* generator) {
  {
    const std::lock_guard lock(mutex_);
    generator_ = generator;
    if (generator == nullptr) waiting_.clear();
  }
  if (generator != nullptr) return;
  const std::lock_guard turning(turning_);
  for (const auto& asking : under_way_) asking->drop();
  const std::lock_guard lock(mutex_);
  for (const auto& asking : under_way_) {
    Figures& figures = of(asking->side().route);
    --figures.running;
    figures.dropped.add();
  }
  under_way_.clear();
}

Json Graders::Core::figures(const std::string& route) const {
  const std::lock_guard lock(mutex_);
  const auto found = figures_.find(route);
  if (found == figures_.end()) return {{"asked", 0}, {"scored", 0}, {"unclear", 0}, {"failed", 0}, {"dropped", 0}};
  const Figures& all = *found->second;
  return {{"asked", all.asked},
          {"scored", all.scored.value()},
          {"unclear", all.unclear.value()},
          {"failed", all.failed.value()},
          {"dropped", all.dropped.value()}};
}

void Graders::Core::begin() {
  if (options_.own_thread) thread_ = std::thread([this] { work(); });
}

void Graders::Core::work() {
  begin_thread("judges");
  for (;;) {
    const bool asking = turn();
    std::unique_lock lock(mutex_);
    const auto something = [&] { return stopping_ || awake_; };
    if (asking)
      due_.wait_for(lock, kLook, something);  // a judge may be late
    else
      due_.wait(lock, something);
    if (stopping_) return;
  }
}

void Graders::Core::end() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    due_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  use(nullptr);
}

// What the router holds. The judge is asked when the answer is whole and its first attempt was good.
class Graders::Follower final : public Tap {
 public:
  Follower(std::shared_ptr<Core> core, Job job, std::string trial, double draw, double canary, double stable)
      : core_(std::move(core)),
        job_(std::move(job)),
        trial_(std::move(trial)),
        draw_(draw),
        canary_(canary),
        stable_(stable) {}

  void started() override {}
  void said(const engine::Event& event) override {
    const std::lock_guard lock(mutex_);
    if (const auto* text = std::get_if<engine::Text>(&event)) {
      if (text->choice == 0) append(job_.answer, text->text);
    } else if (std::holds_alternative<engine::ToolCall>(event)) {
      unfit_ = true;  // what it calls is no answer yet
    } else if (std::holds_alternative<engine::Finished>(event)) {
      whole_ = true;
      submit();
    }
  }
  void first(const std::string& deployment, bool good) override {
    const std::lock_guard lock(mutex_);
    job_.side.canary = deployment == trial_;
    unfit_ = unfit_ || !good || draw_ >= (job_.side.canary ? canary_ : stable_);
    known_ = true;
    submit();
  }

 private:
  void submit() {
    if (!whole_ || !known_ || unfit_ || std::exchange(sent_, true)) return;
    core_->add(std::move(job_));
  }

  const std::shared_ptr<Core> core_;
  std::mutex mutex_;
  Job job_;
  const std::string trial_;
  const double draw_, canary_, stable_;
  bool whole_ = false, known_ = false, unfit_ = false, sent_ = false;
};

Graders::Graders(GradersOptions options) : core_(std::make_shared<Core>(std::move(options))) { core_->begin(); }

Graders::~Graders() { core_->end(); }

void Graders::use(engine::Generator* generator) { core_->use(generator); }

std::shared_ptr<Tap> Graders::tap(const RolloutPlan& plan, const std::string& route, const std::string& version,
                                  double share, double draw, const engine::Request& request) {
  if (!plan.judge || share <= 0 || request.id.starts_with(kJudgeRequests) || !core_->ready()) return nullptr;
  const JudgePlan& judge = *plan.judge;
  if (!allows(judge, request)) return nullptr;
  // As many of the stable one's as of the other's.
  const double stable = judge.share * (share < 0.5 ? share / (1 - share) : 1);
  if (draw >= std::max(judge.share, stable)) return nullptr;
  Job job{.side = {.route = route, .version = version},
          .plan = judge,
          .question = question_of(request.prompt, kMostText),
          .answer = {},
          .data_classes = request.sender.data_classes};
  return std::make_shared<Follower>(core_, std::move(job), plan.to, draw, judge.share, stable);
}

Json Graders::figures(const std::string& route) const { return core_->figures(route); }

void Graders::turn() { (void)core_->turn(); }

}  // namespace ashlar::gateway
