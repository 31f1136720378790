#!/usr/bin/env python3
"""A configuration read anew, and a model's file exchanged, while requests run: how many of them fail.

  bench/reload.py --ashlar build/release/ashlar --stub build/bench/bench/stub_upstream --small stories260K-f32.gguf

wrk asks for short answers of an upstream that answers at once, as fast as it can; beside it streams run that last some seconds,
and answers of a model in the process. Meanwhile the configuration is changed --reloads times: an upstream comes and goes, the
route's deployments and weights, limits and prices change, and each tenth time the model's file is another. Needs wrk.
"""
import argparse
import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from open_load import first_model, offer
from proxy import BODY, Started, free_port


def config(args, folder, behind, turn):
    weight = 1 + turn % 3
    more = turn % 2 == 1
    (folder / "limits.yaml").write_text(f"""limits:
  - {{scope: key, name: rpm, measure: requests, capacity: {10 ** 9 + turn}, period: 1m}}
  - {{scope: key, name: month, kind: budget, dollars: 1000000, window: month}}
prices: [{{model: "*", from: 2026-01-01, input: 0.10, output: {0.4 + turn / 1000:.3f}}}]
""")
    text = f"""upstreams:
  - {{name: behind, url: "http://127.0.0.1:{behind}/v1"}}
"""
    text += f'  - {{name: second, url: "http://127.0.0.1:{behind}/v1"}}\n' if more else ""
    for name in ("stub", "paced"):
        others = f", {{model: second/{name}, weight: {weight}}}" if more else ""
        text += ("routes:\n" if name == "stub" else "") + f"  - {{name: {name}, strategy: weighted, deployments: [{{model: behind/{name}, weight: {weight}}}{others}]}}\n"
    if args.small:
        text += f"model: [\"tale={folder}/{'ab'[turn // 10 % 2]}.gguf\"]\n"
    text += f"limits: {folder}/limits.yaml\n"
    (folder / "next.yaml").write_text(text)
    (folder / "next.yaml").rename(folder / "ashlar.yaml")


def reload(port, key):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/admin/v1/config/reload", b"{}", {"authorization": f"Bearer {key}", "content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        sys.exit(f"a reload was refused: {refused.read().decode()}")


async def run(args, folder, behind, port, key):
    (folder / "post.lua").write_text(f"""wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
""")
    wrk = await asyncio.create_subprocess_exec("wrk", "-t", "1", "-c", "16", "-d", f"{args.seconds}s", "--timeout", "30s", "-s", str(folder / "post.lua"),
                                               f"http://127.0.0.1:{port}/v1/chat/completions", stdout=subprocess.PIPE)
    def stream(model, **more):
        return lambda chance, number: ({"model": model, "stream": True, "max_tokens": 40, "messages": [{"role": "user", "content": f"{number}?"}]} | more, False)
    headers = f"authorization: Bearer {key}\r\n"
    loads = [asyncio.create_task(offer(port, 20, args.seconds, stream("paced"), 1, headers))]
    if args.small:
        tale = stream("tale", chat_template="{% for m in messages %}{{ m.content }}{% endfor %}", ignore_eos=True)
        loads.append(asyncio.create_task(offer(port, 10, args.seconds, tale, 2, headers)))
    loop, begin, changes = asyncio.get_running_loop(), time.monotonic(), []
    for turn in range(1, args.reloads + 1):
        config(args, folder, behind, turn)
        before = time.monotonic()
        if not (await loop.run_in_executor(None, reload, port, key))["changes"]:
            sys.exit("a reload has changed nothing")
        changes.append(time.monotonic() - before)
        await asyncio.sleep(max(0, begin + turn * args.seconds * 0.95 / args.reloads - time.monotonic()))
    out = (await wrk.communicate())[0].decode()
    streams = [answer for load in loads for answer in (await load)[1]]
    return out, streams, changes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/release/ashlar")
    parser.add_argument("--stub", default="build/bench/bench/stub_upstream")
    parser.add_argument("--small", default="", help="a small model (GGUF) of this process whose file is exchanged")
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        started = Started(Path(temporary))
        folder = started.folder
        try:
            stub = subprocess.Popen([args.stub, "40", "50"], stdout=subprocess.PIPE, text=True)
            started.all.append(stub)
            behind = int(stub.stdout.readline().rsplit(":", 1)[1])
            for name in "ab" if args.small else "":
                shutil.copy(args.small, folder / f"{name}.gguf")
            made = subprocess.run([args.ashlar, "key", "create", "--name", "bench", "--role", "admin", "--json", "--data-dir", str(folder / "state")],
                                  capture_output=True, text=True, check=True)
            config(args, folder, behind, 0)
            port = free_port()
            started.run("ashlar", [args.ashlar, "serve", "--config", str(folder / "ashlar.yaml"), "--data-dir", str(folder / "state"), "--port", str(port),
                                   "--http-threads", "1", "--log-level", "warn"], port)
            key = json.loads(made.stdout)["key"]
            first_model(port, key)
            out, streams, changes = asyncio.run(run(args, folder, behind, port, key))
            rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
            count = int(re.search(r"(\d+) requests in", out)[1])
            bad = int((re.search(r"Non-2xx or 3xx responses: (\d+)", out) or [0, 0])[1])
            socket = re.search(r"Socket errors: .*", out)
            failed = [a for a in streams if not a.done or a.error or a.status != 200]
            changes.sort()
            print(f"{len(changes)} reloads, each applied in {1000 * changes[len(changes) // 2]:.0f} ms (median; most {1000 * changes[-1]:.0f} ms)\n"
                  f"{count} short requests at {rate:.0f}/s: {bad} failed{', ' + socket[0] if socket else ''}\n"
                  f"{len(streams)} streams: {len(failed)} failed {sorted({a.error or str(a.status) for a in failed})}")
            warnings = [line for line in (folder / "ashlar.log").read_text().split("\n") if re.search(r"Z (warn|error) ", line)]
            print(f"{len(warnings)} warnings in the log", *warnings[:5], sep="\n  ")
        finally:
            started.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
