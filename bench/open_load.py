"""An open-loop load: requests that come at random (Poisson), whether or not those before them were answered."""
import asyncio
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


async def ask(port, body, answer, headers=""):
    """Sends one streamed request and notes when its pieces of text come."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        text = json.dumps(body)
        writer.write((f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}"
                      f"content-length: {len(text)}\r\n\r\n{text}").encode())
        answer.status = int((await reader.readline()).split()[1])
        while line := await reader.readline():
            if answer.status != 200:
                if line.startswith(b"{"):
                    answer.error = json.loads(line)["error"]["message"]
                continue
            if not line.startswith(b"data: "):
                continue
            now = time.monotonic()
            if line.startswith(b"data: [DONE]"):
                answer.done = True
                continue
            if b'"error"' in line and "error" in (event := json.loads(line[6:])):
                answer.error = str(event["error"].get("message", ""))
                continue
            if b'"content":"' in line and b'"content":""' not in line:
                if answer.first is None:
                    answer.first = now
                else:
                    answer.longest = max(answer.longest, now - answer.last)
                answer.last = now
                answer.pieces += 1
    except (OSError, ValueError, IndexError) as error:
        answer.error = answer.error or str(error) or type(error).__name__
    finally:
        if writer:
            writer.close()


async def offer(port, rate, seconds, make, seed=1, headers=""):
    """`rate` requests a second for so long; make(random, number) gives (body, urgent). Waits for all answers."""
    chance, answers, tasks = random.Random(seed), [], []
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
    return begin, answers


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
