// `?` as Database's callers write it, `$1` as PostgreSQL wants it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ashlar::store {

struct Numbered {
  std::string sql;
  std::size_t places = 0;
  bool returns = false;  // the word RETURNING stands in it
};
// What stands in quotes and comments is left alone; a semicolon at the end goes.
Numbered number_places(std::string_view sql);

}  // namespace ashlar::store
