#!/usr/bin/env python3
"""kill -9 of one of two: what becomes of the requests.

  bench/replicas.py --ashlar build/release/ashlar --rounds 5
  bench/replicas.py --ashlar build/release/ashlar --fronts        # needs redis-server

Two replicas serve the model inside the program, a third Ashlar routes to both. Streams come at random (open loop); in each round
one replica is killed and started again. Counted: requests that failed; of those, the ones that had begun to stream from the dead
replica (they end with an error in the stream); and how long the requests of the second after the kill waited for their first token.

With --fronts two gateways share a budget on Redis and their rows in one database, before one replica; one gateway is killed and
never started again. Counted: pieces of text that all clients received; requests that the other one failed; and
when the money that the dead one held came back.
"""
import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from open_load import Answer, ask, first_model, offer, percentile
from proxy import Started, free_port


def serve(args, started, name, port, more):
    started.run(name, [args.ashlar, "serve", "--port", str(port), "--data-dir", str(started.folder / name), "--log-level", "warn"] + more, port)


def maker(args, model):
    def make(chance, number):
        return {"model": model, "stream": True, "max_tokens": args.tokens, "ignore_eos": True,
                "messages": [{"role": "user", "content": f"{number} What is an ashlar?"}]}, False
    return make


async def one_round(args, started, front, ports, victim):
    load = asyncio.create_task(offer(front, args.rate, args.seconds, maker(args, "chat"), victim + 1))
    await asyncio.sleep(args.seconds * 0.4)
    killed = time.monotonic()
    os.kill(started.pids[f"replica{victim}"], signal.SIGKILL)
    await asyncio.sleep(args.seconds * 0.2)
    await asyncio.get_running_loop().run_in_executor(
        None, serve, args, started, f"replica{victim}", ports[victim], ["--threads", "1", "--http-threads", "1"])
    _, answers = await load
    failed = [a for a in answers if not a.done or a.error or a.status != 200]
    streaming = [a for a in failed if a.status == 200 and a.first and a.asked < killed and a.error and not a.done]
    late = [a for a in answers if a.asked >= killed]
    soon = [a.ttft() for a in late if a.asked < killed + 1 and a.ttft()]
    return len(answers), len(failed), len(streaming), [a.error or str(a.status) for a in failed if a not in streaming], len(late), soon


def replicas(args, started):
    ports = [free_port(), free_port()]
    for i, port in enumerate(ports):
        serve(args, started, f"replica{i}", port, ["--threads", "1", "--http-threads", "1"])
    model = [first_model(port) for port in ports][0]
    (started.folder / "ashlar.yaml").write_text(f"""upstreams:
  - {{name: a, url: "http://127.0.0.1:{ports[0]}/v1"}}
  - {{name: b, url: "http://127.0.0.1:{ports[1]}/v1"}}
routes:
  - {{name: chat, deployments: [a/{model}, b/{model}]}}
""")
    front = free_port()
    serve(args, started, "front", front, ["--config", str(started.folder / "ashlar.yaml"), "--http-threads", "1"])
    first_model(front)
    print(f"{'round':>5}{'requests':>10}{'failed':>8}{'streaming':>11}{'others':>8}{'after the kill':>16}{'TTFT of the next second: p50':>30}{'most':>8}")
    for turn in range(args.rounds):
        count, failed, streaming, others, late, soon = asyncio.run(one_round(args, started, front, ports, turn % 2))
        print(f"{turn + 1:5}{count:10}{failed:8}{streaming:11}{len(others):8}{late:16}{1000 * percentile(soon, .5):27.0f} ms{1000 * max(soon, default=0):5.0f} ms", flush=True)
        for other in sorted(set(others)):
            print(f"      {others.count(other)} x {other}")


async def drain(args, ports, key, killed_at, pids):
    received, failed, refused, over = [0], {0: 0, 1: 0}, [0], asyncio.Event()
    times = []

    async def client(side, number):
        while not over.is_set():
            answer = Answer(False, time.monotonic())
            body, _ = maker(args, "chat")(None, number)
            await ask(ports[side], body, answer)
            received[0] += answer.pieces
            if answer.status == 429 or "budget" in answer.error:
                refused[0] += 1
                await asyncio.sleep(0.05)
            elif not answer.done or answer.error:
                if side == 1 and answer.status != 200:
                    times.append(answer.error or str(answer.status))
                failed[side] += 1
                if side == 0 and pids[0] is None:
                    return
    clients = [asyncio.create_task(client(side, i)) for side in (0, 1) for i in range(8)]
    await asyncio.sleep(killed_at)
    os.kill(pids[0], signal.SIGKILL)
    pids[0] = None
    await asyncio.sleep(killed_at)
    over.set()
    await asyncio.gather(*clients)
    return received[0], failed, refused[0], times


def fronts(args, started):
    if not shutil.which("redis-server"):
        sys.exit("redis-server is not installed")
    redis, behind = free_port(), free_port()
    started.run("redis", ["redis-server", "--port", str(redis), "--save", "", "--bind", "127.0.0.1"], redis, cwd=started.folder)
    serve(args, started, "replica", behind, ["--threads", "1", "--http-threads", "1"])
    model = first_model(behind)
    (started.folder / "ashlar.yaml").write_text(f"""upstreams: [{{name: a, url: "http://127.0.0.1:{behind}/v1"}}]
routes: [{{name: chat, deployments: [a/{model}]}}]
""")
    budget = args.budget
    (started.folder / "limits.yaml").write_text(f"""prices: [{{model: "*", input: 0, output: 1000}}]
limits: [{{scope: global, name: all, kind: budget, dollars: {budget / 1000}, window: total}}]
""")
    ports = [free_port(), free_port()]
    for i, port in enumerate(ports):
        serve(args, started, f"front{i}", port, ["--config", str(started.folder / "ashlar.yaml"), "--limits", str(started.folder / "limits.yaml"),
                                                 "--counters", f"redis://127.0.0.1:{redis}", "--http-threads", "1"])
        first_model(port)
    pids = [started.pids["front0"], started.pids["front1"]]
    received, failed, refused, why = asyncio.run(drain(args, ports, "", args.seconds / 3, pids))
    killed = time.monotonic() - args.seconds / 3
    held = lambda: int(subprocess.run(["redis-cli", "-p", str(redis), "zcard", "{ashlar}:open"], capture_output=True, text=True).stdout)
    print(f"{received} pieces of text received, budget {budget} tokens; {refused} requests refused for the budget; requests to the killed gateway that failed: {failed[0]}; "
          f"requests that the other failed: {failed[1]} {sorted(set(why))}; reservations that the dead one holds: {held()}", flush=True)
    while held() > 0 and time.monotonic() < killed + 300:
        time.sleep(0.5)
    print(f"they came back {time.monotonic() - killed:.0f} s after the kill; {held()} are left", flush=True)
    late = Answer(False, time.monotonic())
    asyncio.run(ask(ports[1], maker(args, "chat")(None, 0)[0], late))
    print(f"a request then: {late.status}, {late.pieces} tokens {late.error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/release/ashlar")
    parser.add_argument("--fronts", action="store_true")
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--tokens", type=int, default=60, help="of each answer")
    parser.add_argument("--seconds", type=float, default=15, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=40_000, help="tokens, with --fronts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        started = Started(Path(temporary))
        try:
            (fronts if args.fronts else replicas)(args, started)
        finally:
            started.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
