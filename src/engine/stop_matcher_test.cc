#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/answer.h"
#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

std::shared_ptr<const StopStrings> stops(std::vector<std::string> strings) {
  return std::make_shared<const StopStrings>(std::move(strings));
}

TEST(StopMatcher, HoldsBackWhatMightBeginAStop) {
  StopMatcher matcher(stops({"END"}), false);
  EXPECT_EQ(matcher.push("abcE").text, "abc");
  EXPECT_EQ(matcher.push("N").text, "");
  EXPECT_EQ(matcher.push("x").text, "ENx");
  EXPECT_EQ(matcher.push("EEN").text, "E");
  const auto found = matcher.push("D and more");
  EXPECT_EQ(found.stop, 0);
  EXPECT_EQ(found.text, "");
}

TEST(StopMatcher, IncludesTheStopIfAsked) {
  StopMatcher matcher(stops({"END"}), true);
  EXPECT_EQ(matcher.push("a EN").text, "a ");
  EXPECT_EQ(matcher.push("D and more").text, "END");
}

TEST(StopMatcher, OfThoseThatEndTogetherTheLongestCounts) {
  StopMatcher matcher(stops({"b", "aab"}), false);
  const auto found = matcher.push("xaab");
  EXPECT_EQ(found.stop, 1);
  EXPECT_EQ(found.text, "x");
}

TEST(StopMatcher, GivesBackWhatItHeld) {
  StopMatcher matcher(stops({"stop"}), false);
  EXPECT_EQ(matcher.push("a sto").text, "a ");
  EXPECT_EQ(matcher.finish(), "sto");
}

TEST(StopMatcher, WhatPassesDoesNotMatch) {
  StopMatcher matcher(stops({"ab"}), false);
  EXPECT_EQ(matcher.pass("ab a"), "ab a");
  EXPECT_EQ(matcher.push("b").stop, -1) << "its beginning passed";
  EXPECT_EQ(matcher.push("ab").stop, 0);
}

TEST(StopMatcher, AgreesWithASearchInTheWholeText) {
  std::mt19937 random(3);
  const auto letters = [&](int longest) {
    std::string text(1 + random() % static_cast<unsigned>(longest), 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> strings;
    for (unsigned i = 0; i < 1 + random() % 3; ++i) strings.push_back(letters(6));
    const std::string text = letters(30);
    // The first end of any of them; there, the longest.
    std::size_t end = std::string::npos;
    std::size_t length = 0;
    for (const std::string& string : strings) {
      const std::size_t at = text.find(string);
      if (at == std::string::npos) continue;
      if (at + string.size() < end || (at + string.size() == end && string.size() > length))
        end = at + string.size(), length = string.size();
    }
    StopMatcher matcher(stops(strings), false);
    std::string shown;
    bool stopped = false;
    for (std::size_t at = 0; at < text.size() && !stopped;) {
      const std::size_t size = 1 + random() % 4;
      const auto released = matcher.push(std::string_view(text).substr(at, size));
      shown += released.text;
      stopped = released.stop >= 0;
      at += size;
    }
    if (!stopped) shown += matcher.finish();
    EXPECT_EQ(stopped, end != std::string::npos);
    EXPECT_EQ(shown, stopped ? text.substr(0, end - length) : text);
  }
}

TEST(StopMatcher, HostileStopsCostNoMoreThanTheirNumber) {
  // aaa...b against aaa...: quadratic for a naive search.
  std::string stop(4096, 'a');
  stop.back() = 'b';
  StopMatcher matcher(stops({stop}), false);
  const std::string text(1 << 20, 'a');
  EXPECT_EQ(matcher.push(text).text.size(), text.size() - 4095);
}

struct Said {
  std::string text;
  std::vector<std::int32_t> ids;
  std::optional<ChoiceEnd> end;
};

Said say(Answer& answer, const std::vector<std::int32_t>& tokens) {
  Said said;
  for (const std::int32_t token : tokens) {
    Answer::Progress progress = answer.push(token, std::nullopt);
    if (progress.text) {
      said.text += progress.text->text;
      said.ids.insert(said.ids.end(), progress.text->ids.begin(), progress.text->ids.end());
    }
    if (progress.end) {
      said.end = progress.end;
      break;
    }
  }
  return said;
}

std::vector<std::int32_t> bytes(std::string_view text) {
  return fake::Tokenizer().encode(text, {.add_special = false});
}

TEST(Answer, ShowsWholeCharacters) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({}), .max_tokens = 100}, 0, true);
  const std::vector<std::int32_t> euro = bytes("€");
  EXPECT_FALSE(answer.push(euro[0], std::nullopt).text);
  EXPECT_FALSE(answer.push(euro[1], std::nullopt).text);
  const Answer::Progress progress = answer.push(euro[2], std::nullopt);
  EXPECT_EQ(progress.text->text, "€");
  EXPECT_EQ(progress.text->ids, euro);
}

TEST(Answer, EndsAtTheEndTokenWhichItDoesNotShow) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({}), .max_tokens = 100}, 0, false);
  const Said said = say(answer, {'h', 'i', fake::kEos, 'x'});
  EXPECT_EQ(said.text, "hi");
  EXPECT_EQ(said.ids, (std::vector<std::int32_t>{'h', 'i', fake::kEos}));
  EXPECT_EQ(said.end->reason, FinishReason::stop);
  EXPECT_FALSE(said.end->stop_token);
}

TEST(Answer, GoesOnAfterTheEndIfAsked) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({}), .ignore_eos = true, .max_tokens = 3}, 0, true);
  const Said said = say(answer, {'h', fake::kEos, 'i', 'x'});
  EXPECT_EQ(said.text, "hi");
  EXPECT_EQ(said.end->reason, FinishReason::length);
}

TEST(Answer, NamesTheStopTokenThatEndedIt) {
  const fake::Tokenizer tokenizer;
  for (const bool include : {false, true}) {
    Answer answer(tokenizer, {.strings = stops({}), .stop_token_ids = {'!'}, .include_stop = include, .max_tokens = 9},
                  0, true);
    const Said said = say(answer, {'h', '!', 'x'});
    EXPECT_EQ(said.text, include ? "h!" : "h");
    EXPECT_EQ(said.end->stop_token, '!');
  }
}

TEST(Answer, AStopStringIsFoundAcrossTokens) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({"\n\n", "é!"}), .max_tokens = 99}, 2, true);
  const Said said = say(answer, bytes("one é! two"));
  EXPECT_EQ(said.text, "one ");
  EXPECT_EQ(said.end->stop_string, "é!");
  EXPECT_EQ(said.end->choice, 2);
  EXPECT_EQ(said.ids.size(), bytes("one é!").size()) << "all tokens are accounted for";
}

TEST(Answer, StopsDoNotCountBeforeMinTokens) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({"a"}), .min_tokens = 3, .max_tokens = 99}, 0, true);
  EXPECT_EQ(say(answer, bytes("aaaba")).text, "aaab");
}

TEST(Answer, ShowsWhatItHeldWhenTheLengthEndsIt) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({"stop"}), .max_tokens = 4}, 0, true);
  const Said said = say(answer, bytes("xsto"));
  EXPECT_EQ(said.text, "xsto");
  EXPECT_EQ(said.end->reason, FinishReason::length);
}

TEST(Answer, BrokenBytesAtTheEndAreReplaced) {
  const fake::Tokenizer tokenizer;
  Answer answer(tokenizer, {.strings = stops({}), .max_tokens = 3}, 0, true);
  EXPECT_EQ(say(answer, {'a', 0xE2, 0x82}).text, "a\xEF\xBF\xBD");
}

}  // namespace
}  // namespace ashlar::engine
