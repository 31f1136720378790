// What no start of `ashlar serve` survives in its options' values, found before anything is started.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/serve_options.h"

namespace ashlar::cli {

// A sentence for each fault. Looks at no file but those of Ashlar's own state.
std::vector<std::string> wrong_options(const ServeOptions& options);

// `fault`, which names an option first ("--log-level is ...", "max_num_seqs is ..."), with the line of the configuration's
// `text` that sets it so; as it is, where none does.
std::string with_line(const std::string& fault, ServeOptions options, const std::string& text, const std::string& path);

}  // namespace ashlar::cli
