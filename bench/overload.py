#!/usr/bin/env python3
"""What more requests than can be served do to those that are: goodput from a quarter of the peak to four times as many.

  bench/overload.py --ashlar build/release/ashlar --stub build/bench/bench/stub_upstream
  bench/overload.py --ashlar build/release/ashlar --engine

Requests come at random, whoever waits (open loop), one in ten of them urgent (priority -1). Goodput: answers a second whose
first token came within --ttft and whose tokens came on average within --itl. The upstream has --seats places in its batch,
and slows down where others wait for them (bench/stub_upstream.cc, `seated`); with --engine, Ashlar's own engine answers with
the model inside the program. `unloaded` asks with urgent requests alone, for a quarter of the peak.

Of the routes (`--route`):
  target    the route has a target for the first token and between tokens: nothing else is said
  seats     and max_concurrent is what the upstream has
  open      nothing is said: no bound at all, as a plain proxy
"""
import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from open_load import first_model, offer, percentile
from proxy import Started, free_port


def start(args, started):
    if args.engine:
        port = free_port()
        started.run("ashlar", [args.ashlar, "serve", "--port", str(port), "--data-dir", str(started.folder / "state"), "--log-level", "warn",
                               "--http-threads", "1"] + args.more, port)
        return port
    stub = subprocess.Popen([args.stub, "16", str(args.pause), str(args.seats)], stdout=subprocess.PIPE, text=True)
    started.all.append(stub)
    behind = int(stub.stdout.readline().rsplit(":", 1)[1])
    target = f"target: {{first_token: {args.ttft}ms, between_tokens: {args.itl}ms}}, "
    most = {"seats": args.seats}.get(args.route)
    deployment = "behind/seated" if most is None else f"{{model: behind/seated, max_concurrent: {most}}}"
    (started.folder / "ashlar.yaml").write_text(f"""upstreams:
  - {{name: behind, url: "http://127.0.0.1:{behind}/v1"}}
routes:
  - {{name: chat, {target if args.route in ("target", "seats") else ""}deployments: [{deployment}]}}
""")
    port = free_port()
    started.run("ashlar", [args.ashlar, "serve", "--config", str(started.folder / "ashlar.yaml"), "--data-dir", str(started.folder / "state"),
                           "--port", str(port), "--http-threads", "1", "--log-level", "warn"] + args.more, port)
    return port


def maker(args, urgent_share):
    words = "stone wall lime square mason quarry lintel ashlar mortar bond course chisel".split()

    def make(chance, number):
        urgent = chance.random() < urgent_share
        text = f"{number}: " + " ".join(chance.choice(words) for _ in range(args.words))
        body = {"model": args.model, "stream": True, "max_tokens": args.tokens, "messages": [{"role": "user", "content": text}]}
        if args.engine:
            body |= {"ignore_eos": True, "temperature": 0}
        if urgent:
            body["priority"] = -1
        return body, urgent
    return make


def measure(args, port, rate, urgent_share, seed):
    begin, answers = asyncio.run(offer(port, rate, args.warm + args.seconds, maker(args, urgent_share), seed))
    counted = [a for a in answers if a.asked >= begin + args.warm]
    good = [a for a in counted if a.done and not a.error and a.ttft() * 1000 <= args.ttft and a.itl() * 1000 <= args.itl]
    answered = [a for a in counted if a.done and not a.error]
    refused = sum(a.status in (429, 503) for a in counted)
    failed = len(counted) - len(answered) - refused
    if failed:
        why = [a.error or f"HTTP {a.status}, {a.pieces} pieces" for a in counted if not (a.done and not a.error) and a.status not in (429, 503)]
        print(f"          {failed} failed: {sorted(set(why))[:3]}")
    return {"rate": rate, "goodput": len(good) / args.seconds, "answered": len(answered) / args.seconds, "refused": refused / args.seconds,
            "failed": failed, "urgent": [a.ttft() for a in answered if a.urgent], "usual": [a.ttft() for a in answered if not a.urgent],
            "urgent_refused": sum(a.urgent and a.status in (429, 503) for a in counted), "itl": [a.itl() for a in answered]}


def show(name, one, peak):
    ms = lambda values, share: f"{1000 * percentile(values, share):7.0f}" if values else "      -"
    print(f"{name:>9}{one['rate']:9.1f}{one['answered']:10.1f}{one['goodput']:9.1f}{one['goodput'] / peak if peak else 0:7.2f}{one['refused']:9.1f}"
          f"{one['failed']:7} {ms(one['usual'], .5)}{ms(one['usual'], .99)} {ms(one['urgent'], .5)}{ms(one['urgent'], .99)}{one['urgent_refused']:6}"
          f" {ms(one['itl'], .5)}{ms(one['itl'], .99)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/release/ashlar")
    parser.add_argument("--stub", default="build/bench/bench/stub_upstream")
    parser.add_argument("--engine", action="store_true", help="Ashlar's own engine answers")
    parser.add_argument("--route", default="target", choices=["target", "seats", "open"])
    parser.add_argument("--model", default="", help="left out: the route, or the model inside the program")
    parser.add_argument("--seats", type=int, default=32)
    parser.add_argument("--pause", type=int, default=10, help="milliseconds between an answer's tokens while it is alone")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--words", type=int, default=20, help="of each prompt")
    parser.add_argument("--ttft", type=int, default=500, help="milliseconds within which a first token is good")
    parser.add_argument("--itl", type=int, default=50, help="milliseconds within which tokens are, on average")
    parser.add_argument("--peak", type=float, default=0, help="requests a second that 1x is; left out: seats / the time of an answer in a full batch")
    parser.add_argument("--loads", default="0.25,0.5,0.75,1,1.5,2,4", help="times the peak")
    parser.add_argument("--warm", type=float, default=5, help="seconds that are not counted")
    parser.add_argument("--learn", type=float, default=0, help="seconds of twice the peak before all else, for what Ashlar has to find out")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further options of ashlar serve")
    args = parser.parse_args()
    peak = args.peak or args.seats / (0.1 + args.tokens * args.pause * 2 / 1000)
    with tempfile.TemporaryDirectory() as temporary:
        started = Started(Path(temporary))
        try:
            port = start(args, started)
            args.model = args.model or (first_model(port) if args.engine else "chat")
            print(f"{args.model}, {'own engine' if args.engine else 'route ' + args.route}; 1x = {peak:.1f}/s; good: TTFT {args.ttft} ms, ITL {args.itl} ms")
            print(f"{'':>9}{'offered':>9}{'answered':>10}{'goodput':>9}{'':>7}{'refused':>9}{'failed':>7} {'TTFT p50':>7}{'p99':>6} {'urgent':>7}{'p99':>7}"
                  f"{'ref.':>6} {'ITL p50':>7}{'p99':>7}")
            if args.learn:
                asyncio.run(offer(port, 2 * peak, args.learn, maker(args, 0.1), 99))
            quiet, shares, urgent = [], [], []
            for turn in range(args.rounds):
                unloaded = measure(args, port, 0.25 * peak, 1, 7 + turn)
                show("unloaded", unloaded, 0)
                best, last = 0, None
                for load in (float(each) for each in args.loads.split(",")):
                    last = measure(args, port, load * peak, 0.1, 100 * turn + round(load * 10))
                    best = max(best, last["goodput"])
                    show(f"{load:g}x", last, best)
                quiet.append(percentile(unloaded["urgent"], .99))
                shares.append(last["goodput"] / best if best else 0)
                urgent.append(percentile(last["urgent"], .99) / quiet[-1])
            spread = lambda values: f"{statistics.median(values):.2f} [{min(values):.2f}..{max(values):.2f}]"
            print(f"at the last load: goodput {spread(shares)} of the best; urgent P99 TTFT {spread(urgent)} of unloaded")
        finally:
            started.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
