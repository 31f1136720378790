#include "gateway/routing/complexity.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/json_full.h"
#include "gateway/routing/prompt_text.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostRead = 16 << 10;

// Words that ask for thought: proofs, plans, designs, comparisons.
constexpr std::string_view kReasoning[] = {
    "prove",    "proof",       "derive",   "derivation", "why ",     "analyze",     "analyse",
    "analysis", "compare",     "contrast", "trade-off",  "tradeoff", "evaluate",    "assess",
    "critique", "justify",     "infer",    "deduce",     "hypothes", "root cause",  "diagnose",
    "reason",   "explain how", "optimi",   "architect",  "strategy", "implication", "consequence",
    "证明",     "推导",        "分析",     "比较",       "对比",     "评估",        "为什么",
    "论证",     "推理",        "权衡",     "优化",       "架构",     "策略",        "诊断",
    "根因",     "影响",        "利弊",     "优缺点",     "原因",     "批判",        "归因"};

// Words of a trade: their questions need knowledge that small models lack.
constexpr std::string_view kTechnical[] = {
    "algorithm",   "complexity",   "distributed", "concurren",  "database",     "transaction",   "protocol",
    "kernel",      "compiler",     "theorem",     "integral",   "differential", "matrix",        "eigen",
    "probability", "bayes",        "statistic",   "regression", "neural",       "gradient",      "thermodynamic",
    "quantum",     "enzyme",       "contract",    "liability",  "regulation",   "balance sheet", "cash flow",
    "valuation",   "derivative",   "consensus",   "latency",    "throughput",   "migration",     "deadlock",
    "schema",      "microservice", "encryption",  "financial",  "invariant",    "recursion",     "thread",
    "算法",        "复杂度",       "分布式",      "并发",       "数据库",       "事务",          "协议",
    "编译",        "定理",         "积分",        "微分",       "矩阵",         "特征值",        "概率",
    "贝叶斯",      "统计",         "回归",        "神经网络",   "梯度",         "量子",          "财报",
    "现金流",      "估值",         "资产负债",    "合同",       "法规",         "一致性",        "死锁",
    "迁移",        "微服务",       "加密",        "吞吐",       "延迟",         "毛利",          "风险"};

// Things to be made, beyond a fact to be told.
constexpr std::string_view kMaking[] = {"write a", "implement", "design",    "build",     "develop", "refactor",
                                        "debug",   "draft",     "create a",  "plan for",  "roadmap", "generate a",
                                        "rewrite", "simulate",  "model the", "report on", "实现",    "设计",
                                        "编写",    "开发",      "重构",      "调试",      "撰写",    "制定",
                                        "规划",    "方案",      "生成一份",  "建模",      "报告",    "写一个"};

constexpr std::string_view kSteps[] = {
    "first,", "then ", "finally", "step by step", "step 1",   "after that", "next,", "for each", "as well as",
    "\n1.",   "\n2.",  "\n- ",    "\n* ",         "(1)",      "(2)",        "(a)",   "(b)",      "首先",
    "然后",   "最后",  "其次",    "逐步",         "一步一步", "步骤",       "分别",  "并且",     "同时",
    "\n一",   "\n二",  "1、",     "2、",          "（1）",    "（2）",      "之后"};

constexpr std::string_view kConstraints[] = {
    "must ",      "must not",   "without ", "at least", "at most",    "no more than", "ensure",
    "constraint", "given that", "assume",   "suppose",  "subject to", "such that",    "include ",
    "必须",       "不得",       "不能",     "至少",     "最多",       "不超过",       "确保",
    "约束",       "假设",       "要求",     "满足",     "考虑",       "包括",         "给定"};

constexpr std::string_view kCode[] = {
    "```",  "def ",       "class ", "#include", "function ", "select ",   "import ",  "return ",     "std::",  "=> ",
    "();",  "public ",    "void ",  "const ",   "traceback", "exception", "segfault", "stack trace", "python", "c++",
    "rust", "javascript", "sql",    "代码",     "函数",      "报错",      "异常",     "脚本",        "接口"};

// Words that say that little is asked.
constexpr std::string_view kSimple[] = {"hello",
                                        "hi ",
                                        "hi!",
                                        "thanks",
                                        "thank you",
                                        "what is the capital",
                                        "translate",
                                        "define ",
                                        "spell",
                                        "what time",
                                        "who is",
                                        "who wrote",
                                        "when was",
                                        "when did",
                                        "how do you say",
                                        "synonym",
                                        "yes or no",
                                        "in one word",
                                        "one sentence",
                                        "fix the grammar",
                                        "convert ",
                                        "how many",
                                        "what day",
                                        "what does",
                                        "你好",
                                        "谢谢",
                                        "翻译",
                                        "是什么意思",
                                        "是谁",
                                        "哪一年",
                                        "首都",
                                        "几点",
                                        "同义词",
                                        "一句话",
                                        "怎么说",
                                        "改成",
                                        "纠正",
                                        "多少",
                                        "什么时候",
                                        "今天"};

// How many different ones of `words` the text has, up to `most`.
template <std::size_t N>
int found(std::string_view text, const std::string_view (&words)[N], int most) {
  int count = 0;
  for (const std::string_view word : words) {
    if (text.find(word) == std::string_view::npos) continue;
    if (++count >= most) break;
  }
  return count;
}

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return text;
}

int questions(std::string_view text) {
  int count = static_cast<int>(std::ranges::count(text, '?'));
  constexpr std::string_view kWide = "\xef\xbc\x9f";  // the full-width one
  for (std::size_t at = text.find(kWide); at != std::string_view::npos; at = text.find(kWide, at + kWide.size()))
    ++count;
  return count;
}

int tools_of(const engine::Prompt& prompt) {
  const auto* chat = std::get_if<engine::Chat>(&prompt.input);
  if (chat == nullptr || !chat->tools || !chat->tools->is_array()) return 0;
  return static_cast<int>(chat->tools->size());
}

double ramp(double value, double from, double to) { return std::clamp((value - from) / (to - from), 0.0, 1.0); }

}  // namespace

ScoreParts complexity_of(const engine::Request& request) {
  // Ids are no text that anybody could read: only their number counts.
  const bool readable = !std::holds_alternative<std::vector<std::int32_t>>(request.prompt.input);
  const std::string text = readable ? lower(question_of(request.prompt, kMostRead)) : "";
  engine::Prompt question;
  question.input = text;
  const int asked = estimated_tokens(readable ? question : request.prompt);
  const int all = estimated_tokens(request.prompt);
  ScoreParts out;
  const auto part = [&](const char* name, double value) {
    if (value == 0) return;
    out.parts.emplace_back(name, value);
    out.score += value;
  };
  part("length", 0.22 * ramp(asked, 10, 120) + 0.13 * ramp(asked, 120, 1200));
  part("context", 0.15 * ramp(all - asked, 500, 8000));
  part("reasoning", 0.13 * found(text, kReasoning, 3));
  part("technical", 0.07 * found(text, kTechnical, 4));
  part("making", 0.13 * found(text, kMaking, 2));
  part("steps", 0.06 * found(text, kSteps, 3));
  part("constraints", 0.06 * found(text, kConstraints, 4));
  part("code", 0.06 * found(text, kCode, 3));
  part("questions", 0.05 * std::min(std::max(questions(text) - 1, 0), 3));
  part("tools", tools_of(request.prompt) > 0 ? 0.05 + 0.05 * ramp(tools_of(request.prompt), 1, 10) : 0);
  part("answer", 0.05 * ramp(request.stopping.max_tokens, 1024, 8192));
  part("simple", -0.12 * found(text, kSimple, 2));
  out.score = std::clamp(out.score, 0.0, 1.0);
  return out;
}

}  // namespace ashlar::gateway
