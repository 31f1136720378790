#!/usr/bin/env python3
"""Ashlar beside llama.cpp on the same files, in alternation, and what came of it as JSON and as a table.

  bench/compare.py --ashlar build/release/ashlar \\
      --peer 'stock=env OMP_PROC_BIND=true OMP_PLACES=cores llama-bench -m {model} -t {threads} {test} -r 1 -o jsonl' \\
      --batched-peer 'stock=llama-batched-bench -m {model} -t {threads} -c {context} {test} --output-format jsonl' \\
      --model llama-3.2-1b,Q4_0,b-Q4_0.gguf --tests pp512,tg64,tg64@2048,pp128+tg32x16,shared512+tg32x16 \\
      --rounds 5 --json docs/benchmarks/decode.json --markdown -

A test is named as `ashlar bench` names it: ppN prefill, tgN decode, ppN+tgM both (tokens per second of all tokens), sharedN+tgM with one
prompt for all; then @DEPTH for tokens that are there already, then xBATCH for sequences run together. Tests of more than one sequence,
and those of both phases, go to --batched-peer. In a peer's command {model} is the file, {test} the options that this script makes
for the test, {threads} and {context} numbers. With several peers (--peer twice) a row shows the one with the better median.

In each round each program runs once, in turn; a run in which others had more than 2 % of the cores is taken again, up to three times
as many in all. Medians are over undisturbed runs, where at least half of --rounds were; the row says so where not. The JSON is
written after every row; rows of other tests that are there already stay. Rows: group, label, test, ours, peer (medians, tokens per
second), ratio, share (of this machine's limit, as `ashlar bench` measured it in those runs), bound_by, ours_spread, peer_spread,
peer_name, rounds, disturbed, unsure. bench/plot.py draws them.
"""
import argparse
import json
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

DISTURBED = 0.02
TEST = re.compile(r"(?:shared(?P<shared>\d+))?(?:\+?pp(?P<pp>\d+))?(?:\+?tg(?P<tg>\d+))?(?:@(?P<depth>\d+))?(?:x(?P<batch>\d+))?")


class Test:
    def __init__(self, name):
        found = TEST.fullmatch(name)
        if not name or not found or not (found["pp"] or found["tg"]):
            raise argparse.ArgumentTypeError(f"'{name}' is not a test such as pp512, tg64@4096 or pp128+tg32x16")
        self.name = name
        self.shared, self.prompt, self.generate, self.depth = (int(found[k] or 0) for k in ("shared", "pp", "tg", "depth"))
        self.batch = int(found["batch"] or 1)
        self.batched = self.batch > 1 or self.shared > 0
        if self.prompt and self.generate and not self.batched:
            raise argparse.ArgumentTypeError(f"'{name}': both phases need more than one sequence, e.g. {name}x8")

    def our_options(self):
        options = ["--prompt", self.prompt, "--generate", self.generate, "--batch", self.batch]
        options += ["--shared-prefix", self.shared] if self.shared else ["--depth", self.depth]
        return [str(o) for o in options]

    def peer_options(self):
        if not self.batched:
            return f"-p {self.prompt} -n {self.generate} -d {self.depth}"
        shared = " -pps" if self.shared else ""
        return f"-npp {self.shared or self.prompt} -ntg {self.generate} -npl {self.batch}{shared}"

    def context(self):
        """Each sequence's own part of llama-batched-bench's context, which it cuts in steps of 256 even for a shared prompt."""
        each = (self.shared or self.prompt) + self.generate + self.depth
        return self.batch * -(-each // 256) * 256


def cpu_idle_seconds():
    with open("/proc/stat") as stat:
        fields = stat.readline().split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command, timeout):
    """What the command printed, and others' share of the cores in the meantime."""
    before = time.monotonic(), cpu_idle_seconds(), children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    wall, idle, own = (b - a for a, b in zip(before, (time.monotonic(), cpu_idle_seconds(), children_seconds())))
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    had = wall * os.cpu_count()
    return done.stdout, max(0.0, (had - idle - own) / had)


def measure_ours(arguments, model, test):
    command = [arguments.ashlar, "bench", model, "--json", "--repeat", "1", "--threads", str(arguments.threads)]
    text, _ = run(command + test.our_options() + shlex.split(arguments.ashlar_options), arguments.timeout)
    found = json.loads(text)["tests"]
    if len(found) != 1:
        raise RuntimeError(f"{test.name}: ashlar bench ran {len(found)} tests")
    row = found[0]
    # It has run the test again where that was disturbed, and watches the timed part alone.
    return {"rate": row["tokens_per_second"]["median"], "disturbed": row["disturbed"], "share": row["share"],
            "bound_by": row.get("bound_by", "both")}


def measure_peer(arguments, peer, model, test):
    command = peer.format(model=shlex.quote(model), threads=arguments.threads, test=test.peer_options(), context=test.context())
    text, foreign = run(shlex.split(command), arguments.timeout)
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if len(rows) != 1:
        raise RuntimeError(f"{command}: printed {len(rows)} results, not 1")
    rate = rows[0]["speed"] if test.batched else rows[0]["avg_ts"]
    return {"rate": rate, "disturbed": foreign > DISTURBED}


class Runner:
    """One program's runs of one test."""

    def __init__(self, name, measure, rounds):
        self.name, self.measure, self.rounds, self.runs = name, measure, rounds, []

    def quiet(self):
        return [r for r in self.runs if not r["disturbed"]]

    def wants_more(self):
        return len(self.quiet()) < self.rounds and len(self.runs) < 3 * self.rounds

    def result(self):
        unsure = 2 * len(self.quiet()) < self.rounds
        kept = self.runs if unsure else self.quiet()
        rates = [r["rate"] for r in kept]
        return {"median": statistics.median(rates), "spread": [min(rates), max(rates)], "unsure": unsure, "kept": kept,
                "disturbed": len(self.runs) - len(self.quiet())}


def compare(arguments, group, label, ours_file, peer_file, test):
    peers = arguments.batched_peer if test.batched else arguments.peer
    runners = [Runner("ashlar", lambda: measure_ours(arguments, ours_file, test), arguments.rounds)]
    for name, command in peers:
        runners.append(Runner(name, lambda c=command: measure_peer(arguments, c, peer_file, test), arguments.rounds))
    turn = 0
    while any(r.wants_more() for r in runners):
        for runner in runners if turn % 2 == 0 else reversed(runners):
            if runner.wants_more():
                runner.runs.append(runner.measure())
                last = runner.runs[-1]
                print(f"{group} {label} {test.name}: {runner.name} {last['rate']:.1f}{' disturbed' if last['disturbed'] else ''}",
                      file=sys.stderr, flush=True)
        turn += 1
    ours, others = runners[0].result(), [(r.name, r.result()) for r in runners[1:]]
    row = {"group": group, "label": label, "test": test.name, "ours": ours["median"], "ours_spread": ours["spread"],
           "share": statistics.median(r["share"] for r in ours["kept"]), "bound_by": ours["kept"][-1]["bound_by"],
           "rounds": arguments.rounds, "disturbed": ours["disturbed"], "unsure": ours["unsure"]}
    if others:
        name, best = max(others, key=lambda other: other[1]["median"])
        row |= {"peer": best["median"], "peer_spread": best["spread"], "peer_name": name, "ratio": ours["median"] / best["median"],
                "disturbed": ours["disturbed"] + best["disturbed"], "unsure": ours["unsure"] or best["unsure"]}
    return row


def key(row):
    return row["group"], row["label"], row["test"]


def keep(path, arguments, row):
    path = Path(path)
    document = json.loads(path.read_text()) if path.exists() else {"rows": []}
    heads = {name: getattr(arguments, name) or document.get(name) for name in ("title", "machine", "peer_title")}
    rows = document["rows"]
    document = {name: words for name, words in heads.items() if words} | {"rows": rows}
    places = [i for i, r in enumerate(rows) if key(r) == key(row)]
    if places:
        rows[places[0]] = row
    else:
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return document


def markdown(document):
    def figure(row, who):
        if who not in row:
            return ""
        low, high = row[f"{who}_spread"]
        return f"{row[who]:.1f} [{low:.1f}..{high:.1f}]"

    lines = [f"| model, type | test | Ashlar | {document.get('peer_title', 'llama.cpp')} | ratio | share of the limit |", "|---|---|---|---|---|---|"]
    last = None
    for row in document["rows"]:
        name = f"{row['group']} {row['label']}"
        bound = {"memory": " of bandwidth", "both": ""}.get(row["bound_by"], f" of {row['bound_by']}")
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        note = " (disturbed)" if row["unsure"] else ""
        lines.append(f"| {name if name != last else ''} | {row['test']} | {figure(row, 'ours')} | {figure(row, 'peer')} | {ratio} "
                     f"| {100 * row['share']:.0f} %{bound}{note} |")
        last = name
    return "\n".join(lines) + "\n"


def named_command(text):
    name, found, command = text.partition("=")
    if not found or " " in name:
        raise argparse.ArgumentTypeError("a peer is NAME=COMMAND")
    return name, command


def model_files(text):
    parts = text.split(",")
    if len(parts) not in (3, 4):
        raise argparse.ArgumentTypeError("a model is GROUP,LABEL,FILE or GROUP,LABEL,FILE,THE_PEER'S_NAME_OF_IT")
    return parts if len(parts) == 4 else parts + parts[2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", required=True, help="the program")
    parser.add_argument("--ashlar-options", default="", help="more options of its bench, in one word")
    parser.add_argument("--peer", type=named_command, action="append", default=[], help="NAME=COMMAND of a llama-bench; may be repeated")
    parser.add_argument("--batched-peer", type=named_command, action="append", default=[], help="NAME=COMMAND of a llama-batched-bench")
    parser.add_argument("--model", type=model_files, action="append", required=True, help="GROUP,LABEL,FILE[,FILE as the peer sees it]")
    parser.add_argument("--tests", default="pp512,tg64", help="separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one run may take")
    parser.add_argument("--title", help="of the pictures")
    parser.add_argument("--machine", help="one line about it")
    parser.add_argument("--peer-title", help="the peer's name in tables and pictures")
    parser.add_argument("--json", required=True, help="where the rows go")
    parser.add_argument("--markdown", help="where the table goes; -: standard output")
    arguments = parser.parse_args()
    try:
        tests = [Test(name) for name in arguments.tests.split(",")]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    document, failed = {"rows": []}, False
    for group, label, ours_file, peer_file in arguments.model:
        for test in tests:
            try:
                document = keep(arguments.json, arguments, compare(arguments, group, label, ours_file, peer_file, test))
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                print(f"{group} {label} {test.name}: {error}", file=sys.stderr)
                failed = True
    table = markdown(document)
    if arguments.markdown == "-":
        print(table, end="")
    elif arguments.markdown:
        Path(arguments.markdown).write_text(table)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
