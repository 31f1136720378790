// HTML escaping, which templates meet through |escape and |safe even where
// nothing is HTML.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace ashlar::text::jinja {

// & < > ' " become entities.
std::string escape_html(std::string_view text);
// A string's text, escaped unless it is Markup already.
std::string escape_unless_markup(const Value& string);

}  // namespace ashlar::text::jinja
