#include "text/jinja/search.h"

#include <cstring>
#include <string>

namespace ashlar::text::jinja {

std::size_t find_text(std::string_view text, std::string_view needle, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // glibc's memmem is two-way: linear, where string_view::find is not.
  const void* at = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return at == nullptr ? std::string_view::npos : static_cast<std::size_t>(static_cast<const char*>(at) - text.data());
}

std::vector<std::size_t> find_all(std::string_view text, std::string_view needle, std::size_t most) {
  std::vector<std::size_t> places;
  for (std::size_t at = 0; places.size() < most; at += needle.size()) {
    at = find_text(text, needle, at);
    if (at == std::string_view::npos) break;
    places.push_back(at);
  }
  return places;
}

std::vector<std::size_t> find_all_from_right(std::string_view text, std::string_view needle, std::size_t most) {
  const std::string backwards(text.rbegin(), text.rend());
  const std::string needle_backwards(needle.rbegin(), needle.rend());
  auto places = find_all(backwards, needle_backwards, most);
  for (std::size_t& place : places) place = text.size() - place - needle.size();
  return {places.rbegin(), places.rend()};
}

}  // namespace ashlar::text::jinja
