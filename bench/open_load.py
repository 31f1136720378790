"""An open-loop load: requests that come at random (Poisson), whether or not those before them were answered."""
import asyncio
import gc
import json
import random
import time
import urllib.error
import urllib.request


def first_model(port, key=""):
    """The name of the first model that is served there, once it is loaded."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["data"][0]["id"]
        except (urllib.error.HTTPError, IndexError):
            time.sleep(0.1)


class Answer:
    def __init__(self, urgent, asked):
        self.urgent, self.asked = urgent, asked
        self.status, self.first, self.last, self.pieces, self.done, self.error = 0, None, None, 0, False, ""
        self.longest = 0.0  # between two pieces

    def ttft(self):
        return self.first - self.asked if self.first else None

    def itl(self):
        return (self.last - self.first) / (self.pieces - 1) if self.pieces > 1 else 0.0


class Ask(asyncio.Protocol):
    """One streamed request; notes when its pieces of text come. Does as little as can be for each: on few cores what we compute is missing there."""

    def __init__(self, port, body, answer, headers, ended):
        self.answer, self.ended, self.rest = answer, ended, b""
        text = json.dumps(body)
        self.request = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\nconnection: close\r\n"
                        f"{headers}content-length: {len(text)}\r\n\r\n{text}").encode()

    def connection_made(self, transport):
        transport.write(self.request)

    def data_received(self, data):
        now, answer = time.monotonic(), self.answer
        data = self.rest + data
        if answer.status == 0:
            if b"\r\n\r\n" not in data:
                self.rest = data
                return
            answer.status = int(data.split(None, 2)[1])
            data = data[data.index(b"\r\n\r\n") + 4:]
        end = data.rfind(b"\n\n") + 2 if answer.status == 200 else 0
        events, self.rest = data[:end], data[end:]
        if b'"error"' in events:
            self.look_for_error(events)
        pieces = events.count(b'"content":"') - events.count(b'"content":""')
        if pieces > 0:
            if answer.first is None:
                answer.first = now
            else:
                answer.longest = max(answer.longest, now - answer.last)
            answer.last = now
            answer.pieces += pieces
        if b"data: [DONE]" in events:
            answer.done = True

    def look_for_error(self, events):
        for line in events.split(b"\n"):
            if line.startswith(b"data: {") and "error" in (event := json.loads(line[6:])):
                self.answer.error = str(event["error"].get("message", ""))

    def connection_lost(self, error):
        answer = self.answer
        if error and not answer.done:
            answer.error = answer.error or str(error) or type(error).__name__
        for line in self.rest.split(b"\n") if answer.status != 200 else []:
            if line.startswith(b"{"):
                try:
                    answer.error = json.loads(line)["error"]["message"]
                except (ValueError, KeyError, TypeError) as strange:
                    answer.error = str(strange)
        if not self.ended.done():
            self.ended.set_result(None)


async def ask(port, body, answer, headers=""):
    """Sends one streamed request and notes when its pieces of text come."""
    loop = asyncio.get_running_loop()
    ended, transport = loop.create_future(), None
    try:
        transport, _ = await loop.create_connection(lambda: Ask(port, body, answer, headers, ended), "127.0.0.1", port)
        await ended
    except (OSError, ValueError, IndexError) as error:
        answer.error = answer.error or str(error) or type(error).__name__
    finally:
        if transport:
            transport.close()


async def offer(port, rate, seconds, make, seed=1, headers=""):
    """`rate` requests a second for so long; make(random, number) gives (body, urgent). Waits for all answers."""
    chance, answers, tasks = random.Random(seed), [], []
    gc.disable()  # its pauses would be the answers'
    begin = due = time.monotonic()
    while True:
        due += chance.expovariate(rate)
        if due > begin + seconds:
            break
        await asyncio.sleep(max(0, due - time.monotonic()))
        body, urgent = make(chance, len(answers))
        answers.append(Answer(urgent, time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, body, answers[-1], headers)))
    await asyncio.gather(*tasks)
    gc.enable()
    return begin, answers


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
