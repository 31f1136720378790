// Binds names to slots by Jinja's scoping rules, so that rendering looks nothing up.
//
// Jinja compiles a template to Python functions and its variables to their locals,
// one per name and nesting level. What a name means follows from that, quirks
// included: a scope copies an outer variable in when it assigns to it and never
// copies it back; a name assigned in some branch of an `if` begins as the outer
// variable; macros see the variables around them as they are when called. We do
// the same analysis (jinja2.idtracking, 3.1.6) and keep its slots.
#pragma once

#include "base/result.h"
#include "text/jinja/ast.h"

namespace ashlar::text::jinja {

// invalid: a break outside a loop, an unknown filter or test, an assignment to a
// loop's special variable.
Status resolve(Template& parsed);

}  // namespace ashlar::text::jinja
