// The methods of Python's types that a sandboxed template may call.
#pragma once

#include <span>
#include <string_view>

#include "text/jinja/value.h"

namespace ashlar::text::jinja {

struct Method {
  std::string_view name;
  Function::Native native;
};

std::span<const Method> string_methods();           // methods_string.cc
std::span<const Method> string_split_methods();     // methods_split.cc
std::span<const Method> string_question_methods();  // methods_question.cc

// A parameter whose name begins with a slash is by position only.

}  // namespace ashlar::text::jinja
