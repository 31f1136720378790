// ashlar upstream list, seal: upstreams of a running server; a secret made fit to stand in a configuration file.
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <iostream>
#include <string>

#include "cli/serving.h"
#include "cli/subcommands.h"
#include "gateway/upstreams/secrets.h"

namespace ashlar::cli {
namespace {

// The first line of stdin; typed, it is not shown.
std::string read_unseen() {
  termios before{};
  const bool typed = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0;
  if (typed) {
    fmt::print(stderr, "the secret (it is not shown): ");
    termios quiet = before;
    quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &quiet);
  }
  std::string line;
  std::getline(std::cin, line);
  if (typed) {
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
    fmt::print(stderr, "\n");
  }
  return line;
}

Status seal() {
  const auto key = TRY(gateway::SealKey::find(true));
  const std::string secret = read_unseen();
  if (secret.empty()) return Error{Code::invalid, "there is no secret on stdin"};
  fmt::print("{}\n", key.seal(secret));
  return {};
}

}  // namespace

int upstream(const Words& words) {
  const std::vector<Subcommand> all = {
      {"list", "[--json]", "those of a running server, and why one is down", list_upstreams},
      {"seal", "< key.txt", "seal a key, so that it may stand in a configuration file", [](const Words& rest) {
         return run_line({.name = "upstream seal",
                          .summary = "Seal a secret, read from stdin, so that it may stand in a configuration file.",
                          .examples = "Example:\n  ashlar upstream seal < key.txt\nThe key that seals is ASHLAR_SEAL_KEY, "
                                      "or a file that is made at first: ASHLAR_SEAL_KEY_FILE, else "
                                      "~/.config/ashlar/seal.key."},
                         rest, seal);
       }}};
  return dispatch_subcommand("upstream", "Other servers that answer for this one.", all, words);
}

}  // namespace ashlar::cli
