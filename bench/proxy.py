#!/usr/bin/env python3
"""What Ashlar costs as a proxy, beside nginx and HAProxy on the same cores, before the same upstream.

  bench/proxy.py --ashlar build/release/ashlar --stub build/bench/bench/stub_upstream --rounds 5

Needs wrk, nginx and haproxy (those that are missing are left out). The upstream answers at once. Ashlar has a key check, limits with a
budget, a route and a durable row of usage on; the others forward, nothing else. In turns, for each:

  rate      requests per second of short answers, 32 connections, all out
  latency   p50 and p99 at half of the slowest one's rate, less those of the direct call; requests come at random moments
            (bench/paced_client.cc). And those of one connection that asks again as soon as it is answered
  streams   many streams at once: memory of the proxy for each, and whether all of them ended as they should

Rates are medians with least and most over the rounds.
"""
import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BODY = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "What is an ashlar?"}], "max_tokens": 64},
                  separators=(",", ":"))
LIMITS = """limits:
  - {scope: key, name: rpm, measure: requests, capacity: 1000000000, period: 1m}
  - {scope: key, name: tpm, kind: token_bucket, capacity: 1000000000, period: 1m}
  - {scope: model, name: seats, kind: semaphore, capacity: 100000}
  - {scope: key, name: month, kind: budget, dollars: 1000000, window: month}
prices:
  - {model: "*", from: 2026-01-01, input: 0.10, output: 0.40}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process, log):
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}: {Path(log.name).read_text()}")


class Started:
    """Programs that were started, by name, with the port to ask."""

    def __init__(self, folder):
        self.folder, self.ports, self.pids, self.all = folder, {}, {}, []

    def run(self, name, command, port, **more):
        log = open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, **more)
        self.all.append(process)
        wait_for(port, process, log)
        self.ports[name], self.pids[name] = port, process.pid

    def stop(self):
        for process in self.all:
            process.terminate()
        for process in self.all:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def family(pid):
    """The process and its children."""
    out = [pid]
    for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split():
        out += family(int(child))
    return out


def resident(pid):
    total = 0
    for each in family(pid):
        with open(f"/proc/{each}/smaps_rollup") as file:
            total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M)[1]) * 1024
    return total


def start_all(args, started):
    folder = started.folder
    stub = subprocess.Popen([args.stub, str(args.pieces), str(args.pause)], stdout=subprocess.PIPE, text=True)
    started.all.append(stub)
    port = int(stub.stdout.readline().rsplit(":", 1)[1])
    started.ports["direct"] = port
    if shutil.which("nginx"):
        mine = free_port()
        (folder / "nginx.conf").write_text(f"""worker_processes {args.threads}; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; upstream stub {{ server 127.0.0.1:{port}; keepalive 256; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{mine}; location / {{ proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}
""")
        started.run("nginx", ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.err")], mine)
    if shutil.which("haproxy"):
        mine = free_port()
        (folder / "haproxy.cfg").write_text(f"""global
  nbthread {args.threads}
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend front
  bind 127.0.0.1:{mine}
  default_backend stub
backend stub
  http-reuse always
  server stub 127.0.0.1:{port}
""")
        started.run("haproxy", ["haproxy", "-f", str(folder / "haproxy.cfg")], mine)
    for name in [n for n in ("ashlar",) if args.ashlar]:
        mine = free_port()
        state = folder / "state"
        made = subprocess.run([args.ashlar, "key", "create", "--name", "bench", "--json", "--data-dir", str(state)],
                              capture_output=True, text=True, check=True)
        started.key = json.loads(made.stdout)["key"]
        (folder / "limits.yaml").write_text(LIMITS)
        (folder / "ashlar.yaml").write_text(f"""upstreams:
  - {{name: behind, url: "http://127.0.0.1:{port}/v1"}}
routes:
  - {{name: stub, strategy: least-outstanding, deployments: [behind/stub]}}
  - {{name: paced, strategy: least-outstanding, deployments: [behind/paced]}}
""")
        # A route called as its model: the route comes first.
        started.run(name, [args.ashlar, "serve", "--config", str(folder / "ashlar.yaml"), "--limits", str(folder / "limits.yaml"),
                           "--data-dir", str(state), "--port", str(mine), "--http-threads", str(args.threads), "--log-level", "warn"] + args.more, mine)
        while subprocess.run(["curl", "-sf", f"http://127.0.0.1:{mine}/health"], capture_output=True).returncode:
            time.sleep(0.05)


def wrk(started, name, seconds, connections):
    script = started.folder / "post.lua"
    script.write_text(f"""wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {getattr(started, 'key', '')}"
local bad = 0
function response(status, headers, body) if status ~= 200 then bad = bad + 1; if bad == 1 then io.stderr:write("status " .. status .. ": " .. body .. "\\n") end end end
""")
    out = subprocess.run(["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency", "-s", str(script),
                          f"http://127.0.0.1:{started.ports[name]}/v1/chat/completions"], capture_output=True, text=True)
    if "Non-2xx" in out.stdout or out.returncode:
        sys.exit(f"{name}: {out.stdout}{out.stderr}")

    def time_of(share):
        value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", out.stdout).groups()
        return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out.stdout)[1]), time_of(50), time_of(99)


def paced(args, started, name, rate):
    out = subprocess.run([Path(args.stub).with_name("paced_client"), str(started.ports[name]), str(rate), str(args.seconds),
                          getattr(started, "key", "none"), BODY], capture_output=True, text=True, check=True)
    said = json.loads(out.stdout)
    if said["bad"]:
        sys.exit(f"{name}: {said['bad']} requests were not answered")
    return said["p50"], said["p99"]


def latencies(title, names, rounds, measure):
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(measure(name))
    print(f"\n{title}\n{'':10}{'p50 ms':>10}{'p99 ms':>10}{'added p50':>26}{'added p99':>26}")
    for name in names:
        p50, p99 = (statistics.median(t[i] for t in times[name]) for i in range(2))
        more = [[t[i] - d[i] for t, d in zip(times[name], times["direct"])] for i in range(2)]
        print(f"{name:10}{p50:10.3f}{p99:10.3f}" + "".join(f"{statistics.median(m):10.3f} [{min(m):.3f}..{max(m):.3f}]" for m in more), flush=True)


async def one_stream(port, key, result):
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 14)
        body = BODY[:-1].replace("stub", "paced") + ',"stream":true}'
        writer.write((f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
                      f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}").encode())
        tail = b""
        while piece := await reader.read(4096):
            tail = (tail + piece)[-64:]
        writer.close()
        result.append(b"[DONE]" in tail)
    except OSError:
        result.append(False)


async def streams(started, name, count):
    before, result, most = resident(started.pids[name]), [], 0
    tasks = []
    for i in range(count):
        tasks.append(asyncio.create_task(one_stream(started.ports[name], started.key, result)))
        if i % 50 == 49:
            await asyncio.sleep(0.02)
    while not all(task.done() for task in tasks):
        most = max(most, resident(started.pids[name]))
        await asyncio.sleep(0.5)
    return (most - before) / count, sum(result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/release/ashlar")
    parser.add_argument("--stub", default="build/bench/bench/stub_upstream", help="paced_client stands beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of each proxy")
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--pieces", type=int, default=40, help="of each stream")
    parser.add_argument("--pause", type=int, default=500, help="milliseconds between them")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further options of ashlar serve")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        started = Started(Path(temporary))
        try:
            start_all(args, started)
            names = list(started.ports)
            rates = {name: [] for name in names}
            for _ in range(args.rounds):
                for name in names:
                    rates[name].append(wrk(started, name, args.seconds, 32)[0])
            print(f"{'':10}{'requests/s':>22}{'of nginx':>10}")
            for name in names:
                all_ = rates[name]
                share = [a / b for a, b in zip(all_, rates["nginx"])] if "nginx" in rates else [0]
                print(f"{name:10}{statistics.median(all_):10.0f} [{min(all_):.0f}..{max(all_):.0f}]{statistics.median(share):8.2f}", flush=True)
            half = min(statistics.median(rates[name]) for name in names) / 2
            latencies(f"at {half:.0f} a second", names, args.rounds, lambda name: paced(args, started, name, half))
            latencies("one after the other", names, args.rounds, lambda name: wrk(started, name, args.seconds, 1)[1:])
            if args.streams:
                print(f"\n{'':10}{'KiB a stream':>14}{'ended well':>12}")
                for name in names[1:]:
                    size, well = asyncio.run(streams(started, name, args.streams))
                    print(f"{name:10}{size / 1024:14.1f}{well:8} of {args.streams}", flush=True)
        finally:
            started.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    main()
