// The commands of the program, one file each. Each takes the words after its
// name and returns the exit status: 0 done, 1 it failed, 2 wrong usage.
#pragma once

#include <string>
#include <vector>

namespace ashlar::cli {

using Words = std::vector<std::string>;

int serve(const Words& words);
int run(const Words& words);
int pull(const Words& words);
int list(const Words& words);
int remove(const Words& words);
int gc(const Words& words);
int show(const Words& words);
int tokenize(const Words& words);
int detokenize(const Words& words);
int render(const Words& words);
int perplexity(const Words& words);
int convert(const Words& words);
int quantize(const Words& words);
int importance(const Words& words);
int bench(const Words& words);
int load(const Words& words);
int key(const Words& words);
int team(const Words& words);
int budget(const Words& words);
int event(const Words& words);
int model(const Words& words);
int route(const Words& words);
int status(const Words& words);
int usage(const Words& words);
int backup(const Words& words);
int restore(const Words& words);
int upstream(const Words& words);
int rollout(const Words& words);
int config(const Words& words);

}  // namespace ashlar::cli
