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


class Connection(asyncio.Protocol):
    """One streamed request after the other; notes when pieces of text come. Does as little as can be for each: on few cores what is computed here is
    missing there."""
    idle = {}  # by port; those that the server keeps open

    def __init__(self, port):
        self.port, self.answer, self.ended, self.rest = port, None, None, b""

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, request, answer):
        self.answer, self.rest, self.length = answer, b"", None
        self.ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.ended

    def data_received(self, data):
        now, answer = time.monotonic(), self.answer
        if answer is None:
            return self.transport.close()
        data = self.rest + data
        if answer.status == 0:
            if b"\r\n\r\n" not in data:
                self.rest = data
                return
            head, data = data.split(b"\r\n\r\n", 1)
            answer.status = int(head.split(None, 2)[1])
            at = head.lower().find(b"content-length:")
            self.length = int(head[at + 15:].split(None, 1)[0]) if at >= 0 else None
        if answer.status != 200:
            self.rest = data
            if self.length is not None and len(data) >= self.length:
                self.refused(data)
                self.end()
            return
        end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
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
        if self.rest.endswith(b"0\r\n\r\n"):
            self.end()

    def look_for_error(self, events):
        for line in events.split(b"\n"):
            if line.startswith(b"data: {") and "error" in (event := json.loads(line[6:])):
                self.answer.error = str(event["error"].get("message", ""))

    def refused(self, body):
        try:
            self.answer.error = json.loads(body)["error"]["message"]
        except (ValueError, KeyError, TypeError) as strange:
            self.answer.error = str(strange)

    def end(self):
        self.answer = None
        Connection.idle.setdefault(self.port, []).append(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, error):
        if self in Connection.idle.get(self.port, []):
            Connection.idle[self.port].remove(self)
        if self.answer is not None:
            if not self.answer.done:
                self.answer.error = self.answer.error or str(error or "the connection was closed")
            if not self.ended.done():
                self.ended.set_result(None)


async def ask(port, body, answer, headers=""):
    """Sends one streamed request and notes when its pieces of text come."""
    text = json.dumps(body)
    request = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{headers}"
               f"content-length: {len(text)}\r\n\r\n{text}").encode()
    try:
        idle = Connection.idle.get(port)
        if idle:
            connection = idle.pop()
        else:
            _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(port), "127.0.0.1", port)
        await connection.ask(request, answer)
    except (OSError, ValueError, IndexError) as error:
        answer.error = answer.error or str(error) or type(error).__name__


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
    for connection in Connection.idle.pop(port, []):
        connection.transport.close()
    gc.enable()
    return begin, answers


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
