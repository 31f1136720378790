#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/json_full.h"

namespace ashlar::text {
namespace {

Result<std::string> render(std::string source, Json context = Json::object(), TemplateLimits limits = {}) {
  const auto parsed = ChatTemplate::parse(std::move(source), limits);
  if (!parsed) return parsed.error();
  return (*parsed)->render(context, 0);
}

std::string repeated(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out.append(text);
  return out;
}

TEST(ChatTemplate, RendersAConversation) {
  const auto parsed = ChatTemplate::parse(
      "{%- for m in messages %}<|{{ m.role }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
      "{%- if add_generation_prompt %}<|assistant|>\n{% endif %}");
  ASSERT_TRUE(parsed) << parsed.error().message;
  const Json context =
      Json::parse(R"({"messages":[{"role":"user","content":" hi "}],"eos_token":"</s>","add_generation_prompt":true})");
  EXPECT_EQ((*parsed)->render(context, 0).value(), "<|user|>\nhi</s>\n<|assistant|>\n");
  EXPECT_TRUE((*parsed)->source().starts_with("{%- for"));
}

TEST(ChatTemplate, ErrorsSayTheLineAndTheReason) {
  const auto unclosed = ChatTemplate::parse("a\n{% if x %}\nb");
  ASSERT_FALSE(unclosed);
  EXPECT_EQ(unclosed.error().code, Code::invalid);
  EXPECT_NE(unclosed.error().message.find("line 3: Unexpected end of template."), std::string::npos)
      << unclosed.error().message;
  const auto refused = render("a\n\n{{ raise_exception('No system role') }}");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::invalid);
  EXPECT_EQ(refused.error().message, "chat template, line 3: No system role");
}

TEST(ChatTemplate, ContextThatIsNoObjectIsAnError) {
  EXPECT_FALSE(render("a", Json::array()));
  EXPECT_FALSE(render("a", nullptr));
}

TEST(ChatTemplate, SourceMustBeUtf8) { EXPECT_EQ(ChatTemplate::parse("a\xFF").error().code, Code::invalid); }

TEST(ChatTemplate, NothingIsIncluded) {
  EXPECT_FALSE(render("{% include 'x' %}"));
  EXPECT_FALSE(render("{% extends 'x' %}"));
  EXPECT_FALSE(render("{% from 'x' import y %}"));
  EXPECT_EQ(render("{% if false %}{% include 'x' %}{% endif %}ok").value(), "ok");
}

TEST(ChatTemplate, SandboxForbidsChangeAndPython) {
  const Json context = {{"l", {1, 2}}, {"d", {{"a", 1}}}};
  for (const char* source : {"{{ l.append(3) }}", "{{ l.pop() }}", "{{ d.update({}) }}", "{{ d.clear() }}",
                             "{{ ''.__class__.__mro__ }}", "{{ l.__class__() }}"}) {
    const auto text = render(source, context);
    ASSERT_FALSE(text) << source;
    EXPECT_NE(text.error().message.find("is unsafe"), std::string::npos) << text.error().message;
  }
  EXPECT_EQ(render("{{ l.append }}|{{ l.append is defined }}", context).value(), "|False");
}

TEST(ChatTemplate, SetManyNamespacesAtOnce) {  // new in Jinja 3.1.5
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.a, b = 2, 3 %}{{ ns.a }}{{ b }}").value(), "23");
}

TEST(ChatTemplate, NamespacesMayHoldThemselves) {
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.n = n %}{{ n }}").value(),
            "<Namespace {'n': <Namespace {...}>}>");
}

TEST(ChatTemplate, IntegersBeyondReachAreErrorsNotWrong) {
  EXPECT_EQ(render("{{ 2**100 }}").value(), "1267650600228229401496703205376");
  for (const char* source : {"{{ 2**127 }}", "{{ 10**1000000 }}", "{{ 2**100 * 2**100 }}", "{{ (2**126) + (2**126) }}",
                             "{{ 999999999999999999999999999999999999999999 }}", "{{ '9' * 50 | int }}",
                             "{{ ('9' * 50) | int }}", "{{ 1e300 | int }}"}) {
    EXPECT_FALSE(render(source) && source != std::string("{{ '9' * 50 | int }}")) << source;
  }
  EXPECT_EQ(render("{{ x }}", {{"x", 18446744073709551615u}}).value(), "18446744073709551615");
}

// What a hostile template may try. Each must be refused, at once: here at a tenth of
// the usual limits, for the sake of slow builds.
TEST(ChatTemplate, HostileTemplatesAreCutShort) {
  const std::string deep_list =
      "{% set n = namespace(x=[1]) %}{% for i in range(300) %}{% set n.x = [n.x] %}{% endfor %}";
  const std::string doubling =
      "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
  const std::vector<std::string> sources = {
      "{{ 'x' * 10**9 }}",
      "{{ [0] * 10**9 }}",
      "{{ 'x' * 10**30 }}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = n.s | replace('', 'xx') %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
      "{% set n = namespace(s=['x']) %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s=['x']) %}{% for i in range(100) %}{% set n.s = [n.s | join('xx'), n.s | join('yy')] %}{% "
      "endfor %}",
      deep_list,
      "{% set n = namespace(x=(1,)) %}{% for i in range(300) %}{% set n.x = (n.x,) %}{% endfor %}",
      "{% set n = namespace(x={}) %}{% for i in range(300) %}{% set n.x = {'a': n.x} %}{% endfor %}",
      "{% set n = namespace(x='a') %}{% for i in range(300) %}{% set n.x = n.x | map('upper') %}{% endfor %}",
      doubling + "{{ n.x }}",
      doubling + "{{ n.x | tojson }}",
      doubling +
          "{% set a = n.x %}{% set n.x = [1] %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ a == "
          "n.x }}",
      doubling + "{% set m = n.x %}{{ m | string | length }}",
      "{% set n = namespace(x=(1,)) %}{% for i in range(100) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
      "{% set n = namespace(x=namespace()) %}{% for i in range(5000) %}{% set n.x = namespace(y=n.x) %}{% endfor %}{{ "
      "n }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{{ f([x]) }}{{ f([x]) }}{% endmacro %}{{ f(1) }}",
      "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
      "{{ 'x'.center(10**10) }}",
      "{{ 'x'.ljust(10**15) }}",
      "{{ 'x'.zfill(10**12) }}",
      "{{ 'x' | center(10**12) }}",
      "{{ 'a\tb'.expandtabs(10**12) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '%.1000000000f' % 1 }}",
      "{{ '%*d' % (10**10, 1) }}",
      "{{ '{:1000000000}'.format(1) }}",
      "{{ '{:.1000000000f}'.format(1.0) }}",
      "{{ '{:>{}}'.format('x', 10**10) }}",
      "{{ 'a\nb' | indent(10**12) }}",
      "{{ [[1]] | tojson(indent=10**10) }}",
      "{{ [1] | batch(10**9, 0) | list }}",
      "{{ [1] | slice(10**9) | list }}",
      "{{ range(10**9) }}",
      "{{ range(100000) | list | map('string') | map('length') | list | sort | sum * 'x' * 10**9 }}",
      "{% set s = 'a' * 10**6 %}{% for i in range(100000) %}{{ s.find('b') }}{% endfor %}",
      "{% set s = 'a' * 10**6 %}{% for i in range(100000) %}{{ (s ~ 'b') in s }}{% endfor %}",
      "{% set s = 'a' * 10**6 %}{% for i in range(100000) %}{{ s.rfind('b' ~ s[:1000]) }}{% endfor %}",
      "{% set s = 'ab ' * 10**6 %}{% for i in range(100) %}{% set q = s | wordwrap(1) %}{% endfor %}",
      "{% for i in range(100000) %}{{ strftime_now('%1000Y' * 100) | length }}{% endfor %}",
      "{% set a = range(90000) | list %}{% for i in a %}{% set q = a | sort(reverse=true) %}{% endfor %}",
      "{% set a = range(90000) | list %}{{ a | map('default', *a) | list }}",
      "{% set a = range(90000) | list %}{% for i in a %}{{ i in [-1] + a }}{% endfor %}",
      "{% set n = namespace(l=[]) %}{% for i in range(100000) %}{% set n.l = n.l + [i] %}{% endfor %}",
      "{% set n = namespace(l=[]) %}{% for i in range(100000) %}{% set n.l = n.l + [n.zz] %}{% endfor %}",
  };
  for (const std::string& source : sources) {
    const auto text = render(source, Json::object(), {.steps = 1'000'000, .value_bytes = 32 << 20});
    EXPECT_FALSE(text) << source;
  }
}

TEST(ChatTemplate, DeepSourcesAreRefused) {
  const std::vector<std::string> sources = {
      "{{ " + repeated("(", 20'000) + "1" + repeated(")", 20'000) + " }}",
      "{{ " + repeated("[", 20'000) + repeated("]", 20'000) + " }}",
      "{{ " + repeated("{1:", 20'000) + "1" + repeated("}", 20'000) + " }}",
      "{{ " + repeated("-", 20'000) + "1 }}",
      "{{ " + repeated("1 if 1 else ", 20'000) + "1 }}",
      "{{ a" + repeated(".a", 20'000) + " }}",
      "{{ a" + repeated("[0]", 20'000) + " }}",
      "{{ a" + repeated("()", 20'000) + " }}",
      "{{ a" + repeated("|e", 20'000) + " }}",
      "{{ 1" + repeated(" if 1", 20'000) + " }}",
      repeated("{% if 1 %}", 10'000),
      repeated("{% for a in b %}", 10'000),
      repeated("{% macro a() %}", 10'000),
  };
  for (const std::string& source : sources) {
    const auto parsed = ChatTemplate::parse(source);
    ASSERT_FALSE(parsed) << source.substr(0, 30);
    EXPECT_EQ(parsed.error().code, Code::too_large) << parsed.error().message;
  }
  EXPECT_EQ(ChatTemplate::parse(std::string(2 << 20, 'x')).error().code, Code::too_large);
}

TEST(ChatTemplate, LongChainsAreFine) {
  EXPECT_EQ(render("{{ 0" + repeated(" + 1", 50'000) + " }}").value(), "50000");
  EXPECT_EQ(render("{{ ''" + repeated(" ~ 'a'", 1000) + " }}").value(), repeated("a", 1000));
  EXPECT_EQ(render("{{ " + repeated("not ", 100'000) + "1 }}").value(), "True");
  EXPECT_EQ(render("{{ 1" + repeated(" and 1", 50'000) + " }}").value(), "1");
  EXPECT_EQ(render(repeated("{% if 0 %}a{% endif %}", 20'000) + "b").value(), "b");
  EXPECT_EQ(render("{% if 0 %}" + repeated("{% elif 0 %}", 20'000) + "{% else %}b{% endif %}").value(), "b");
}

TEST(ChatTemplate, ManyNamesUnderManyIfsAreRefused) {
  std::string source = repeated("{% if 1 %}", 100);
  for (int i = 0; i < 40'000; ++i) source += "{% set b" + std::to_string(i) + " = 1 %}";
  EXPECT_EQ(ChatTemplate::parse(source + repeated("{% endif %}", 100)).error().code, Code::too_large);
}

TEST(ChatTemplate, ManyNamesInManyBranchesParseQuickly) {
  std::string source;
  for (int i = 0; i < 20'000; ++i)
    source += "{% if a" + std::to_string(i) + " %}{% set b" + std::to_string(i) + " = 1 %}{% endif %}";
  EXPECT_EQ(render(source).value(), "");
}

TEST(ChatTemplate, LongChainsOfReferencesDieWithoutRecursion) {
  EXPECT_EQ(
      render("{% set n = namespace(x=none) %}{% for i in range(100000) %}{% set n.x = namespace(y=n.x) %}{% endfor %}"
             "{% set n.x = 1 %}ok")
          .value(),
      "ok");
}

TEST(ChatTemplate, LimitsAreTheCallers) {
  EXPECT_EQ(render("{{ 'abc' * 10 }}", Json::object(), {.output_bytes = 29}).error().code, Code::too_large);
  EXPECT_TRUE(render("{{ 'abc' * 10 }}", Json::object(), {.output_bytes = 30}));
  EXPECT_EQ(render("{% for i in range(100) %}{% endfor %}", Json::object(), {.steps = 50}).error().code,
            Code::too_large);
  EXPECT_EQ(render("{{ 'abc' * 1000 }}", Json::object(), {.value_bytes = 1000}).error().code, Code::too_large);
  EXPECT_EQ(render("abc", Json::object(), {.source_bytes = 2}).error().code, Code::too_large);
  Json deep = 1;
  for (int i = 0; i < 200; ++i) deep = Json::array({std::move(deep)});
  EXPECT_EQ(render("a", {{"x", deep}}).error().code, Code::too_large);
}

TEST(ChatTemplate, ManyThreadsRenderOneTemplate) {
  const auto parsed = ChatTemplate::parse(
      "{% macro f(x) %}[{{ x | upper }}]{% endmacro %}{% set n = namespace(s='') %}"
      "{% for m in messages %}{% set n.s = n.s ~ f(m.role) ~ {'k': 'v'}.k ~ 'lit' %}{% endfor %}{{ n.s }}");
  ASSERT_TRUE(parsed);
  const Json context = Json::parse(R"({"messages":[{"role":"a"},{"role":"b"}]})");
  std::vector<std::jthread> threads;
  std::vector<int> right(4);
  for (int& count : right) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        const auto text = (*parsed)->render(context, 0);
        count += text && *text == "[A]vlit[B]vlit";
      }
    });
  }
  threads.clear();
  EXPECT_EQ(right, std::vector<int>(4, 200));
}

}  // namespace
}  // namespace ashlar::text
