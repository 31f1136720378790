// The front door: finds the command and hands it the rest of the words.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cli/commands.h"

// jemalloc's settings: what was freed goes back to the system though nobody asks for memory any more.
extern "C" const char* malloc_conf = "background_thread:true";

namespace {

using ashlar::cli::Words;

struct Command {
  const char* name;
  const char* usage;
  const char* summary;
  int (*run)(const Words&);
};

constexpr Command kCommands[] = {
    {"serve", "[MODEL] [--port 8080]", "serve models over the OpenAI API, with a page to chat", ashlar::cli::serve},
    {"run", "[MODEL] [PROMPT]", "chat in the terminal; with a prompt or a pipe: answer and exit", ashlar::cli::run},
    {"key", "create | list | rotate | block | ...", "API keys: who may ask, which models, from where", ashlar::cli::key},
    {"team", "create | list | change | block | ...", "teams: members, models, whether they are let in", ashlar::cli::team},
    {"budget", "create | list | change | delete", "budgets in money for keys, users, teams and tenants", ashlar::cli::budget},
    {"event", "list [--since 1h] [--follow]", "what happened to the server, and who asked for it", ashlar::cli::event},
    {"model", "list | load", "what a running server serves", ashlar::cli::model},
    {"route", "list | open | close | auto", "a running server's routes and their breakers", ashlar::cli::route},
    {"status", "[--server URL]", "what a running server says of itself", ashlar::cli::status},
    {"pull", "hf:ORG/REPO[:FILE] | ollama:NAME | ...", "fetch a model from a hub", ashlar::cli::pull},
    {"list", "", "the models that were pulled", ashlar::cli::list},
    {"remove", "NAME...", "forget pulled models", ashlar::cli::remove},
    {"gc", "", "remove from the store what no model needs", ashlar::cli::gc},
    {"show", "MODEL", "what is in a model file, and the memory it needs", ashlar::cli::show},
    {"tokenize", "MODEL", "text on stdin to token ids", ashlar::cli::tokenize},
    {"detokenize", "MODEL", "token ids on stdin to text", ashlar::cli::detokenize},
    {"render", "MODEL|FILE.jinja CONTEXT.json", "the chat template's text for a conversation", ashlar::cli::render},
    {"perplexity", "MODEL FILE", "how well a model predicts a text", ashlar::cli::perplexity},
    {"convert", "FOLDER OUT.gguf", "write a Hugging Face folder as one GGUF file", ashlar::cli::convert},
    {"quantize", "IN OUT --type Q4_K_M", "write a smaller version of a model", ashlar::cli::quantize},
    {"importance", "MODEL TEXT -o FILE", "measure which columns of the weights matter", ashlar::cli::importance},
    {"bench", "MODEL | --shape NAME --type TYPE", "tokens per second, beside this machine's own limits", ashlar::cli::bench},
    {"load", "URL", "load any OpenAI-compatible server and time its answers", ashlar::cli::load},
    {"usage", "[--since 7d] [--by team,model]", "requests, tokens and money; export as CSV or JSON", ashlar::cli::usage},
    {"backup", "FILE", "copy keys, budgets and usage while a server runs", ashlar::cli::backup},
    {"restore", "FILE", "put such a copy in their place", ashlar::cli::restore},
    {"upstream", "list | seal", "a running server's upstreams; seal a key for the configuration file", ashlar::cli::upstream},
    {"rollout", "list | show | promote | rollback | ...", "versions of models on trial, of a server that runs", ashlar::cli::rollout},
    {"config", "check | import-litellm FILE", "check a configuration file of `ashlar serve`, or make one", ashlar::cli::config},
};

void print_help(std::FILE* out) {
  const bool colour = isatty(fileno(out)) && std::getenv("NO_COLOR") == nullptr;
  const char *bold = colour ? "\033[1m" : "", *plain = colour ? "\033[0m" : "";
  fmt::print(out, "{}ashlar{} {}: runs large language models and serves them.\n\n", bold, plain, ASHLAR_VERSION);
  for (const Command& command : kCommands)
    fmt::print(out, "  {}ashlar {:<10}{} {:<41} {}\n", bold, command.name, plain, command.usage, command.summary);
  fmt::print(out,
             "  {0}ashlar version{1} | {0}ashlar help{1} [COMMAND]\n\n"
             "MODEL is a GGUF file, or the name of a pulled model; where it may be left out, a small model inside this program answers.\n"
             "`ashlar COMMAND --help` explains each. To begin: `ashlar run`, or `ashlar serve` and open the page it names.\n",
             bold, plain);
}

int dispatch(const Words& words) {
  if (words.empty()) {
    print_help(stderr);
    return 2;
  }
  const std::string& name = words[0];
  Words rest(words.begin() + 1, words.end());
  if (name == "version" || name == "--version" || name == "-V") {
    fmt::print("ashlar {}\n", ASHLAR_VERSION);
    return 0;
  }
  if (name == "help" || name == "--help" || name == "-h") {
    if (rest.empty()) {
      print_help(stdout);
      return 0;
    }
    rest.emplace_back("--help");
    return dispatch(rest);
  }
  for (const Command& command : kCommands)
    if (name == command.name) return command.run(rest);
  fmt::print(stderr, "ashlar: no command is called '{}'; `ashlar help` lists them\n", name);
  return 2;
}

// Output that a full disk did not take is not there, whatever the command thinks of it.
int ended(int status) {
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  pollfd reader{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  const bool left = poll(&reader, 1, 0) > 0 && (reader.revents & (POLLERR | POLLHUP)) != 0;  // `| head`: it has enough
  if (written || left || status != 0) return status;
  fmt::print(stderr, "ashlar: not all of the output could be written: is the disk full?\n");
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return ended(dispatch(Words(argv + 1, argv + argc)));
  } catch (const std::exception& e) {
    fmt::print(stderr, "ashlar: internal error: {}\n", e.what());
    return 70;
  }
}
