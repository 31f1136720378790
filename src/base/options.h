// Options said once: one list feeds flags, the configuration file, the
// environment, --help and whatever page shows them.
//
//   struct EngineOptions {
//     int max_num_seqs = 64;
//     void fields(auto&& field) {
//       field("max_num_seqs", max_num_seqs, "Most requests decoded together in one step.");
//     }
//   };
//
// gives --max-num-seqs, ASHLAR_MAX_NUM_SEQS and `max_num_seqs:` in ashlar.yaml.
#pragma once

#include <charconv>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace ashlar {

struct Option {
  std::string name;           // max_num_seqs
  std::string help;
  std::string default_value;  // as text
  bool is_flag = false;       // a bool: may stand without a value
  bool is_list = false;       // each set() adds one
  std::function<Status(std::string_view)> set;
};

namespace options_detail {

Error bad_value(std::string_view name, std::string_view text, std::string_view expected);
Result<bool> parse_bool(std::string_view text);
std::string show(bool value);
std::string show(double value);
std::string show(long long value);

template <class T>
Option make(std::string_view name, T& value, std::string_view help) {
  Option option{.name = std::string(name), .help = std::string(help)};
  if constexpr (std::is_same_v<T, bool>) {
    option.is_flag = true;
    option.default_value = show(value);
    option.set = [&value, n = option.name](std::string_view text) -> Status {
      auto parsed = parse_bool(text);
      if (!parsed) return bad_value(n, text, "true or false");
      value = *parsed;
      return {};
    };
  } else if constexpr (std::is_arithmetic_v<T>) {
    if constexpr (std::is_integral_v<T>) option.default_value = show(static_cast<long long>(value));
    else option.default_value = show(static_cast<double>(value));
    option.set = [&value, n = option.name](std::string_view text) -> Status {
      T parsed{};
      const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), parsed);
      bool fine = failed == std::errc{} && end == text.data() + text.size();
      if constexpr (std::is_floating_point_v<T>) fine = fine && std::isfinite(parsed);
      if (!fine)
        return bad_value(n, text, std::is_integral_v<T> ? "a whole number" : "a number");
      value = parsed;
      return {};
    };
  } else if constexpr (std::is_same_v<T, Bytes>) {
    option.default_value = to_string(value);
    option.set = [&value, n = option.name](std::string_view text) -> Status {
      const auto parsed = parse_bytes(text);
      if (!parsed) return bad_value(n, text, "a size such as 512MiB");
      value = *parsed;
      return {};
    };
  } else if constexpr (std::is_same_v<T, std::chrono::milliseconds>) {
    option.default_value = show(static_cast<long long>(value.count()));
    option.set = [&value, n = option.name](std::string_view text) -> Status {
      long long parsed = 0;
      const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), parsed);
      if (failed != std::errc{} || end != text.data() + text.size() || parsed < 0)
        return bad_value(n, text, "a number of milliseconds");
      value = std::chrono::milliseconds(parsed);
      return {};
    };
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    option.is_list = true;
    option.set = [&value](std::string_view text) -> Status {
      value.emplace_back(text);
      return {};
    };
  } else {
    static_assert(std::is_same_v<T, std::string>, "an option is a bool, number, Bytes, milliseconds, string or list of strings");
    option.default_value = value;
    option.set = [&value](std::string_view text) -> Status {
      value = text;
      return {};
    };
  }
  return option;
}

}  // namespace options_detail

// The options of `object`, bound to its members: it must outlive the list.
template <class T>
std::vector<Option> list_options(T& object) {
  std::vector<Option> out;
  object.fields([&](std::string_view name, auto& value, std::string_view help) {
    out.push_back(options_detail::make(name, value, help));
  });
  return out;
}

// Reads `text` (YAML: a flat map of option names), which errors call `path`, into `options`.
// `sections` are names that it may also hold, for others to read.
// invalid: unknown names and wrong values, each with its line.
Status read_options_text(const std::string& text, const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections = {});

// The same of the file at `path`. Also not_found; too_large: beyond 4 MiB.
Status read_options_file(const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections = {});

// The values of `object` as they are now, by name, as texts of which equal ones mean equal values.
template <class T>
std::map<std::string, std::string> option_values(T& object) {
  std::map<std::string, std::string> out;
  object.fields([&](std::string_view name, auto& value, std::string_view help) {
    std::string text;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::vector<std::string>>)
      for (const std::string& each : value) text += std::to_string(each.size()) + ":" + each;
    else
      text = options_detail::make(name, value, help).default_value;
    out.emplace(name, std::move(text));
  });
  return out;
}

// Reads ASHLAR_<NAME> for each option. invalid: wrong values, a line each.
Status read_options_environment(std::vector<Option>& options);

}  // namespace ashlar
