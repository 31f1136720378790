// A conversation as clients send it, checked and put into the form that chat
// templates were written for.
#pragma once

#include <memory>
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
// For another server's model messages stay as they came, since that server reads them: `foreign` is then the whole
// body, which holds them from there on.
Outcome<engine::Chat> read_chat(Fields& fields, const std::shared_ptr<const Json>& foreign = nullptr);

}  // namespace ashlar::api
