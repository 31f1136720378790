// What routing reads of a prompt, before anybody has tokenized it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/generator.h"

namespace ashlar::gateway {

// What all keys of its beginnings (engine/prefixes.h) are made with: its tenant and all but its text that decides which
// tokens it becomes and who may share their blocks. One that was given is kept.
std::uint64_t prefix_salt(const engine::Request& request, std::string_view adapter);

// The first `characters` of the first message of a user; of a plain prompt, its own first ones.
std::string first_words(const engine::Prompt& prompt, std::size_t characters);

// The last message of a user, which is what is asked; of a plain prompt, all of it. Up to `most` bytes.
std::string question_of(const engine::Prompt& prompt, std::size_t most);

// About how many tokens it is: ids are counted; of text, four ASCII bytes or two thirds of a character beyond them.
int estimated_tokens(const engine::Prompt& prompt);

}  // namespace ashlar::gateway
