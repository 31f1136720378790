// A conversation as clients send it, checked and put into the form that chat
// templates were written for.
#pragma once

#include <string>

#include "api/errors.h"
#include "api/fields.h"
#include "engine/generator.h"

namespace ashlar::api {

// Reads messages, tools, chat_template and what belongs to them.
// - content given as parts becomes one string (parts joined by newlines); parts
//   that are no text are refused
// - the role "developer" becomes "system", which templates know
// - a tool call's arguments become an object, as templates expect
// - `reasoning` becomes `reasoning_content`
// For a `foreign` model messages stay as they came: its own server reads them.
Outcome<engine::Chat> read_chat(Fields& fields, bool foreign = false);

}  // namespace ashlar::api
