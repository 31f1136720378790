// A real PostgreSQL server for tests: on a unix socket in a folder that goes away,
// under a user of its own where we are root, ended with the test program.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "store/files.h"

namespace ashlar::store {

class PostgresForTest {
 public:
  // One for the whole program; a failure to start ends it, with a sentence.
  static PostgresForTest& server() {
    static PostgresForTest one;
    return one;
  }

  // A schema that nobody else has.
  std::string new_place() {
    return fmt::format("postgresql:///postgres?host={}&user=ashlar&options=-csearch_path%3Dplace{}", folder_,
                       ++places_);
  }
  // To be run on the server first; psql is its own client.
  void make_place(const std::string& url) {
    const std::string place = url.substr(url.find("%3D") + 3);
    run({binary("psql"), "-q", "-c", "CREATE SCHEMA " + place, url.substr(0, url.find("&options"))});
  }

  void start() {
    // One that was killed may have begun a process that we did not see: until that ends, no other server takes its
    // data.
    for (int i = 0; i < 50; ++i) {
      if (starts()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    fail("postgres did not start: " + read_small_file(folder_ + "/log", 1 << 20).value_or(""));
  }
  // SIGKILL: as a crash; SIGINT: in good order; SIGSTOP and SIGCONT: a server that hangs.
  void signal(int number) {
    const std::vector<pid_t> backends = children();
    ::kill(pid_, number);
    if (number != SIGINT)
      for (const pid_t each : backends) ::kill(each, number);
    if (number == SIGSTOP || number == SIGCONT) return;
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
    // A killed server leaves it; its number may be another process's by now.
    ::unlink((folder_ + "/data/postmaster.pid").c_str());
  }

 private:
  // False: it ended.
  bool starts() {
    pid_ = spawn({binary("postgres"), "-D", folder_ + "/data", "-k", folder_, "-c", "listen_addresses=", "-c",
                  "fsync=off", "-c", "deadlock_timeout=20ms", "-c", "max_connections=60", "-c", "shared_buffers=16MB"},
                 folder_ + "/log");
    for (int i = 0; i < 3000; ++i) {
      if (run_quietly({binary("pg_isready"), "-q", "-U", "ashlar", "-h", folder_}) == 0) return true;
      if (::waitpid(pid_, nullptr, WNOHANG) == pid_) return false;
    }
    fail("postgres did not answer: " + read_small_file(folder_ + "/log", 1 << 20).value_or(""));
  }

  PostgresForTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ashlar-pg-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    if (::getuid() == 0) {
      const passwd* user = ::getpwnam("postgres");
      if (user == nullptr) user = ::getpwnam("nobody");
      user_ = user->pw_uid;
      group_ = user->pw_gid;
      (void)!::chown(folder_.c_str(), user_, group_);
    }
    copy_or_make_data();
    start();
  }
  ~PostgresForTest() {
    if (owner_ != ::getpid()) return;  // a forked child of a test
    if (pid_ != 0) signal(SIGKILL);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // initdb takes seconds, and each test of a suite may be a process of its own: what it
  // makes is kept beside the test program and copied.
  void copy_or_make_data() {
    namespace fs = std::filesystem;
    const fs::path kept = fs::read_symlink("/proc/self/exe").parent_path() / "postgres-for-tests";
    const fs::path data = fs::path(folder_) / "data";
    std::error_code failed;
    if (!fs::exists(kept / "PG_VERSION", failed)) {
      run({binary("initdb"), "-D", data.string(), "-U", "ashlar", "-A", "trust", "-E", "UTF8", "--locale=C",
           "--no-sync"});
      const fs::path aside = kept.string() + fmt::format(".{}", ::getpid());
      fs::copy(data, aside, fs::copy_options::recursive, failed);
      fs::rename(aside, kept, failed);  // another test may have been first
      if (failed) fs::remove_all(aside, failed);
      return;
    }
    fs::copy(kept, data, fs::copy_options::recursive);
    for (const auto& each : fs::recursive_directory_iterator(data)) give_away(each.path());
    give_away(data);
  }
  void give_away(const std::filesystem::path& path) {
    std::filesystem::permissions(
        path, std::filesystem::is_directory(path) ? std::filesystem::perms::owner_all : std::filesystem::perms(0600));
    if (::getuid() == 0) (void)!::lchown(path.c_str(), user_, group_);
  }

  std::vector<pid_t> children() const {
    std::ifstream list(fmt::format("/proc/{0}/task/{0}/children", pid_));
    return {std::istream_iterator<pid_t>(list), std::istream_iterator<pid_t>()};
  }

  [[noreturn]] static void fail(const std::string& why) {
    std::fprintf(stderr, "PostgresForTest: %s\n", why.c_str());
    std::abort();
  }

  static std::string binary(const std::string& name) {
    namespace fs = std::filesystem;
    std::error_code none;
    for (const auto& each : fs::directory_iterator("/usr/lib/postgresql", none))
      if (const auto path = each.path() / "bin" / name; fs::exists(path, none)) return path;
    fail(name + " is not here (Debian: apt install postgresql)");
  }

  pid_t spawn(const std::vector<std::string>& words, const std::string& output) const {
    std::vector<char*> arguments;
    for (const std::string& each : words) arguments.push_back(const_cast<char*>(each.c_str()));
    arguments.push_back(nullptr);
    const pid_t child = ::fork();
    if (child != 0) return child;
    ::setpgid(0, 0);
    if (::getuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setgid(group_) != 0 || ::setuid(user_) != 0))
      ::_exit(126);
    ::prctl(PR_SET_PDEATHSIG, SIGQUIT);  // a test that crashed leaves no server
    const int log = ::open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(log, 1);
    ::dup2(log, 2);
    (void)!::chdir("/");
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  int run_quietly(const std::vector<std::string>& words) const {
    int status = 0;
    ::waitpid(spawn(words, folder_ + "/log"), &status, 0);
    return status;
  }
  void run(const std::vector<std::string>& words) const {
    if (run_quietly(words) != 0) fail(words[0] + " failed: " + read_small_file(folder_ + "/log", 1 << 20).value_or(""));
  }

  const pid_t owner_ = ::getpid();
  std::string folder_;
  uid_t user_ = 0;
  gid_t group_ = 0;
  pid_t pid_ = 0;
  int places_ = 0;
};

}  // namespace ashlar::store
