// A place for a database that a test has for itself: a file in a folder that goes
// away, or a schema of a PostgreSQL server that the test program starts.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "store/database.h"
#include "store/postgres_for_test.h"

namespace ashlar::store {

class FolderForTest {
 public:
  FolderForTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ashlar-state-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~FolderForTest() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  FolderForTest(const FolderForTest&) = delete;
  FolderForTest& operator=(const FolderForTest&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class PlaceForTest {
 public:
  explicit PlaceForTest(Dialect dialect) {
    if (dialect == Dialect::sqlite) {
      where_ = folder_.path() + "/state.db";
      return;
    }
    where_ = PostgresForTest::server().new_place();
    PostgresForTest::server().make_place(where_);
  }
  const std::string& where() const { return where_; }

 private:
  FolderForTest folder_;
  std::string where_;
};

}  // namespace ashlar::store
