#include "gateway/routing/complexity.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

enum class Tier { low, middle, high };

struct Labelled {
  Tier tier;
  const char* text;
};

// Written and labelled by hand: low, what a small model answers from memory or by rote; middle, a task of some
// sentences; high, several steps that need knowledge and thought. The weights stood before the set did.
const Labelled kSet[] = {
    {Tier::low, "Hello, how are you today?"},
    {Tier::low, "What is the capital of Australia?"},
    {Tier::low, "Translate 'good morning' into French."},
    {Tier::low, "Thanks, that was helpful!"},
    {Tier::low, "Who wrote Pride and Prejudice?"},
    {Tier::low, "What time is it in Tokyo when it is noon in London?"},
    {Tier::low, "Give me a synonym for happy."},
    {Tier::low, "Convert 5 miles to kilometres."},
    {Tier::low, "Fix the grammar: he go to school yesterday."},
    {Tier::low, "Is a tomato a fruit? Answer yes or no."},
    {Tier::low, "你好,请问你是谁?"},
    {Tier::low, "法国的首都是哪里?"},
    {Tier::low, "把“早上好”翻译成英文。"},
    {Tier::low, "谢谢你的帮助!"},
    {Tier::low, "《红楼梦》的作者是谁?"},
    {Tier::low, "一公里等于多少米?"},
    {Tier::low, "“高兴”的同义词有哪些?"},
    {Tier::low, "今天星期几?"},
    {Tier::low, "中华人民共和国是哪一年成立的?"},
    {Tier::low, "用一句话介绍长城。"},

    {Tier::middle,
     "Write a Python function that checks whether a string is a palindrome, ignoring spaces and case, and "
     "include two short tests for it."},
    {Tier::middle,
     "Summarise the differences between TCP and UDP and compare when you would use each protocol in practice."},
    {Tier::middle,
     "Draft a polite email to a customer whose order is delayed by two weeks. It must apologise, explain the "
     "reason without blaming the carrier, and offer a discount of at most 10 percent."},
    {Tier::middle,
     "Explain how garbage collection works in Java and why stop-the-world pauses happen. What can I do about them?"},
    {Tier::middle,
     "Create a seven-day meal plan for a vegetarian runner, with at least 100 g of protein a day, and include a "
     "shopping list sorted by section of the shop."},
    {Tier::middle,
     "My SQL query with three joins takes 20 seconds on a table of two million rows. Explain how I would find "
     "out why it is slow and which index could help."},
    {Tier::middle,
     "Compare electric cars and hybrid cars for a family that drives 15,000 km a year: cost, range, resale "
     "value and consequences for the environment."},
    {Tier::middle,
     "Write a unit test for a REST endpoint that creates a user, then refactor this handler so that validation "
     "is a separate function: def create(request): user = User(**request.json); db.add(user); return user.id"},
    {Tier::middle,
     "Analyze the main themes of Orwell's 1984 and explain how the setting supports each of them, in about 400 words."},
    {Tier::middle,
     "Given that a fair die is rolled three times, what is the probability that the sum is at least 16? Show each "
     "step of the reasoning."},
    {Tier::middle, "写一个 Python 函数,读取 CSV 文件并按日期分组统计每天的销售额,要求处理缺失值,并附上使用示例。"},
    {Tier::middle, "比较 MySQL 和 PostgreSQL 在事务、索引和扩展方面的差异,并说明各自适合的场景。"},
    {Tier::middle, "请帮我撰写一份产品发布会的邀请函,要求语气正式,包括时间、地点、议程,字数不超过300字。"},
    {Tier::middle, "解释一下神经网络中的梯度消失问题产生的原因,以及常用的解决办法有哪些?"},
    {Tier::middle, "分析一下远程办公对团队协作的影响,分别从沟通、效率和员工满意度三个方面说明,并给出建议。"},
    {Tier::middle, "我的 Java 服务偶尔报错 OutOfMemoryError,请说明如何逐步排查原因,需要用到哪些工具?"},
    {Tier::middle, "请为一家三十人的初创公司制定一份季度培训计划,至少包括三门课程,并考虑预算不超过五万元。"},
    {Tier::middle,
     "总结这份会议纪要的要点,列出待办事项和负责人,然后写一封邮件发给全体成员,要求同时说明下次会议的时间安排。"},
    {Tier::middle, "用通俗的语言解释区块链的共识机制,并对比工作量证明和权益证明的优缺点。"},
    {Tier::middle, "设计一个学生选课系统的数据库表结构,给出建表语句,并说明为什么这样设计。"},

    {Tier::high,
     "Design a distributed rate limiter for an API gateway that runs in three regions. It must never admit more than "
     "the limit within a window of one minute, must survive the loss of one region, and must add at most 2 ms of "
     "latency. First, compare at least three algorithms (token bucket, sliding window log, and leased shares) and "
     "analyze the trade-offs under network partitions. Then give the protocol between the regions, including how "
     "clocks that drift are handled. Finally, prove that the limit holds, or state the bound by which it may be "
     "exceeded."},
    {Tier::high,
     "Prove that every bounded sequence of real numbers has a convergent subsequence, then derive from it that a "
     "continuous function on a closed interval attains its maximum. For each step state the theorem that you use, "
     "and explain why the argument fails without compactness. Suppose next that the interval is open: give a "
     "counterexample."},
    {Tier::high,
     "We migrate a monolith of 400,000 lines of Java with one Oracle database to microservices without downtime. "
     "Create a plan for the migration: how to find the service boundaries, how to keep transactions consistent while "
     "both systems run, how to move the schema step by step, how to roll back each step, and which risks you would "
     "assess first. Compare change data capture with dual writes and justify your choice. Include a roadmap for twelve "
     "months."},
    {Tier::high,
     "Here is a stack trace from our C++ service: a segfault in std::shared_ptr's destructor on one thread while "
     "another "
     "thread is in std::unordered_map::rehash. It happens about once a day, only under load. Analyze which data races "
     "could cause this, infer the most probable root cause, design an experiment for each hypothesis that would "
     "confirm or "
     "refute it, and implement a fix that must not add a lock to the hot path. Explain the memory ordering that you "
     "rely on."},
    {Tier::high,
     "Evaluate the following acquisition: the target has revenue of 40 million, grows 30 percent a year, and burns 6 "
     "million a year. Build a discounted cash flow valuation with three scenarios, state all assumptions, derive the "
     "cost "
     "of capital, run a sensitivity analysis over growth and margin, compare the result with a valuation by multiples, "
     "and "
     "finally write a recommendation for the board that covers financial and regulatory risks and their consequences."},
    {Tier::high,
     "Derive the gradient of multi-head attention with respect to the query, key and value matrices. First, set up the "
     "notation; then derive the backward pass of the softmax; finally analyze the time and memory complexity and "
     "explain how "
     "an algorithm that never stores the attention matrix recomputes it. Implement it in Python with numpy and verify "
     "it "
     "against finite differences."},
    {Tier::high,
     "You are the architect of a hospital group. Design a system that answers doctors' questions from patient records. "
     "It must satisfy these constraints: data never leaves the site, answers cite their sources, wrong dosages must be "
     "impossible, and regulation requires an audit of each access. Compare three architectures, assess the risks of "
     "each, "
     "justify the choice of model and retrieval strategy, and write a plan for validation step by step, including what "
     "to do "
     "when two sources contradict each other."},
    {Tier::high,
     "Model the spread of an epidemic in a network of ten cities with a system of differential equations. Derive the "
     "basic "
     "reproduction number from the next-generation matrix, simulate two strategies of vaccination under the constraint "
     "that "
     "at most 5 percent can be vaccinated a week, optimize the allocation among cities, and critique the assumptions "
     "of the model. "
     "Explain what changes if the infection probability is estimated by Bayesian regression from noisy data."},
    {Tier::high,
     "Write a compiler pass that does escape analysis for a small object-oriented language. Define the lattice, prove "
     "that the "
     "analysis terminates and is sound, implement it in Rust with tests, then analyze its complexity in the worst case "
     "and "
     "compare it with an interprocedural variant. Consider recursion, closures and exceptions, and explain for each of "
     "them "
     "which invariant must hold."},
    {Tier::high,
     "Our marketing costs rose by 40 percent while revenue was flat. Using the data below, diagnose the root cause: "
     "first "
     "segment by channel and cohort, then test at least three hypotheses with statistical methods, evaluate "
     "confounders, and "
     "finally design an experiment that would establish causality. Explain the trade-offs between power, cost and "
     "duration, and "
     "write a report for the executive team with a strategy for the next two quarters, including risks and "
     "assumptions.\n"
     "1. Channel data by week\n2. Cohort retention\n3. Price changes"},
    {Tier::high,
     "请分析以下上市公司近三年的财报:首先比较营收结构和毛利率的变化,然后分析现金流与净利润背离的原因,"
     "评估存货和商誉减值风险,"
     "对比两家同行的估值水平,最后给出三种情景下的估值模型并说明关键假设。要求列出计算步骤,结论必须有数据支持,"
     "并撰写一份给投资委员会的报告。"},
    {Tier::high,
     "设计一个支持每秒十万笔交易的分布式支付系统架构。必须满足:任意一个机房故障不丢数据,账务强一致,"
     "对账误差为零。请比较两阶段提交、TCC 和 Saga "
     "三种分布式事务方案的利弊,推导各自在网络分区下的一致性保证,给出数据库分片与迁移步骤,最后分析延迟与吞吐的权衡,"
     "并制定上线和回滚方案。"},
    {Tier::high,
     "证明:若实对称矩阵 A 的所有特征值均为正,则 A 正定;然后推导其 Cholesky "
     "分解的存在唯一性,分析算法的复杂度与数值稳定性,"
     "并用 Python 实现,要求不得调用现成的分解函数,最后与 LU 分解对比并说明原因。"},
    {Tier::high,
     "我们的微服务系统在高并发下偶发死锁,日志见下。请首先分析可能的根因,分别给出至少三个假设和验证每个假设的实验步骤,"
     "然后设计修复方案,要求不能停机,同时评估对吞吐和延迟的影响,最后编写回归测试代码,并论证修复后不会再出现循环等待。"},
    {Tier::high,
     "请为一家制造企业制定三年数字化转型战略:分析行业竞争格局和企业优缺点,评估 ERP、MES "
     "与大模型平台的投入产出,设计分阶段实施方案和组织架构调整,"
     "比较自建与采购的利弊,量化风险并给出应对策略,最后撰写一份提交董事会的完整报告,要求包括预算、里程碑和关键指标,"
     "并说明每项假设的依据。"},
    {Tier::high,
     "推导 Transformer 自注意力的反向传播公式,逐步写出 softmax "
     "的雅可比矩阵,分析其时间与空间复杂度;然后解释为什么分块计算可以不保存注意力矩阵,"
     "并用代码实现,要求与数值微分结果对比,误差不超过千分之一,最后讨论低精度下梯度的稳定性并给出优化策略。"},
    {Tier::high,
     "某医院要部署基于大模型的辅助诊断系统。请从数据安全、法规合规、模型评估、临床流程四个方面分析风险,"
     "比较本地部署与云端部署的利弊,"
     "设计数据脱敏与审计方案,制定验证步骤,要求误诊率不超过千分之五,并论证如何在概率校准和召回率之间权衡,"
     "最后给出实施规划与应急预案。"},
    {Tier::high,
     "给定一个带容量约束的多仓库车辆路径问题:请建立整数规划模型,证明其为 NP "
     "难,设计一个启发式算法并分析近似比,用代码实现,"
     "然后在三组数据上对比遗传算法与模拟退火的结果,分析参数的影响,最后说明在实时订单不断到达的情况下如何优化,"
     "并给出架构设计。"},
    {Tier::high,
     "请对这份跨境技术许可合同进行全面评估:首先逐条分析知识产权归属、赔偿责任和管辖条款的风险,"
     "然后比较中国与欧盟相关法规的差异,"
     "推理在对方违约的三种情景下我方的救济途径,评估各自的成本与胜诉概率,最后撰写修改方案,要求不得改变商业条款,"
     "并说明每处修改的原因。"},
    {Tier::high,
     "分析 Raft 与 Paxos 共识协议的差异:首先证明 Raft 的日志匹配性质,然后构造一个网络分区的例子说明为什么需要任期限制,"
     "比较两者在成员变更时的安全性,设计一个支持跨地域部署的优化方案并分析延迟,最后用代码实现领导者选举,"
     "要求给出测试和不变量的论证。"},
};

Tier tier_of(double score) { return score < 0.3 ? Tier::low : score < 0.7 ? Tier::middle : Tier::high; }

engine::Request asking(std::string text) {
  engine::Request request;
  request.prompt.input = std::move(text);
  return request;
}

TEST(Complexity, SortsALabelledSetIntoItsTiers) {
  int right = 0, far = 0;
  std::string wrong;
  for (const Labelled& each : kSet) {
    const double score = complexity_of(asking(each.text)).score;
    const int off = std::abs(static_cast<int>(tier_of(score)) - static_cast<int>(each.tier));
    right += off == 0 ? 1 : 0;
    far += off == 2 ? 1 : 0;
    if (off > 0) wrong += fmt::format("\n  {} {:.2f} {}", static_cast<int>(each.tier), score, each.text);
  }
  RecordProperty("right", fmt::format("{} of {}", right, std::size(kSet)));
  EXPECT_GE(right * 100, 90 * static_cast<int>(std::size(kSet))) << right << wrong;
  EXPECT_EQ(far, 0) << "none is two tiers off" << wrong;
}

TEST(Complexity, IsTheSumOfItsPartsAndWithinBounds) {
  for (const Labelled& each : kSet) {
    const ScoreParts score = complexity_of(asking(each.text));
    double sum = 0;
    for (const auto& [part, value] : score.parts) sum += value;
    EXPECT_NEAR(score.score, std::clamp(sum, 0.0, 1.0), 1e-9);
    EXPECT_GE(score.score, 0);
    EXPECT_LE(score.score, 1);
  }
  EXPECT_EQ(complexity_of({}).score, 0);
}

TEST(Complexity, ReadsTheLastQuestionOfAChatAndCountsItsToolsAndContext) {
  auto messages = std::make_shared<Json>(Json::array());
  messages->push_back({{"role", "system"}, {"content", std::string(40'000, 'x')}});
  messages->push_back({{"role", "user"}, {"content", "Prove the theorem step by step and analyze the algorithm"}});
  messages->push_back({{"role", "assistant"}, {"content", nullptr}});
  messages->push_back({{"role", "user"}, {"content", Json::array({{{"type", "text"}, {"text", "thanks"}}, 7})}});
  engine::Request request;
  engine::Chat chat{.messages = messages};
  request.prompt.input = chat;
  const double plain = complexity_of(request).score;
  EXPECT_LT(plain, 0.3) << "what was asked before is answered";
  chat.tools = std::make_shared<Json>(Json::array({{{"type", "function"}}, {{"type", "function"}}}));
  request.prompt.input = chat;
  EXPECT_GT(complexity_of(request).score, plain);
}

TEST(Complexity, TakesUnderAMillisecondHoweverLongThePromptIs) {
  std::string text;
  while (text.size() < 1 << 20) text += kSet[text.size() % std::size(kSet)].text;
  const engine::Request request = asking(text), common = asking(kSet[40].text);
  const auto least = [](const engine::Request& asked, int times) {
    auto best = std::chrono::nanoseconds::max();
    for (int i = 0; i < times; ++i) {
      const auto before = std::chrono::steady_clock::now();
      (void)complexity_of(asked);
      best = std::min(best, std::chrono::nanoseconds{std::chrono::steady_clock::now() - before});
    }
    return std::chrono::duration<double, std::micro>(best).count();
  };
  const double usual = least(common, 100), longest = least(request, 20);
  RecordProperty("usual_us", fmt::format("{:.1f}", usual));
  RecordProperty("a_megabyte_us", fmt::format("{:.1f}", longest));
#ifdef NDEBUG
  EXPECT_LT(usual, 1000);
  EXPECT_LT(longest, 1000);
#endif
}

}  // namespace
}  // namespace ashlar::gateway
