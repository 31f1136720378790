// Names of files as hubs give them, which are hostile: where a file may lie in
// the store, and what is never fetched.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::store {

// A relative path of at most 16 parts with "/" between them, each a plain name:
// not empty, not "." or "..", no control characters, no backslash, valid UTF-8.
// corrupt: anything else.
Status check_file_name(std::string_view name);

// The kinds of file that can run code when they are opened, or hide such files:
// pickles in all their disguises (.bin, .pt, .ckpt, ...) and archives.
bool is_refused(std::string_view name);
// unsupported: is_refused(), in a sentence.
Status check_kind(std::string_view name);

// What a file's first bytes say against its name: a pickle or an archive under
// any name, a ".gguf" that is none. At least 16 bytes, or the whole file.
// unsupported, corrupt.
Status check_first_bytes(std::string_view name, std::string_view bytes);

// `text` for a message: control characters gone, cut at 200 bytes.
std::string plain(std::string_view text);

}  // namespace ashlar::store
