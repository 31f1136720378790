// Finding text in text, in linear time whatever the two are: needles and
// haystacks come from hostile templates.
#pragma once

#include <string_view>
#include <vector>

namespace ashlar::text::jinja {

// The first byte at or after `from` where `needle` stands; npos: nowhere.
std::size_t find_text(std::string_view text, std::string_view needle, std::size_t from);
// All places where `needle`, not empty, stands without overlap: found from the
// left, at most `most` of them.
std::vector<std::size_t> find_all(std::string_view text, std::string_view needle, std::size_t most);
// The same found from the right; the places still ascend.
std::vector<std::size_t> find_all_from_right(std::string_view text, std::string_view needle, std::size_t most);

}  // namespace ashlar::text::jinja
