"""The assistant's training text: intents, their phrasings, and dialogs made of them.

The intent files in data/ hold blocks:

    == name                     one thing that a user may want
    the answer, word for word   (one answer, so that greedy decoding is stable)
    --
    phrasings, one a line       [a|b|] chooses, {slot} takes from slots.txt
    @macro item | item          many phrasings around each item (MACROS below)
    + other: phrasing           a follow-up: said after this answer, it wants `other`

`python3 data.py` prints samples. What stands in data/heldout.txt (and so in
questions.json, a part of it) is never produced, but for the shortest turns.
"""

import math
import pathlib
import random
import re
import sys
import unicodedata

HERE = pathlib.Path(__file__).resolve().parent
FILES = ["en_about", "en_use", "en_api", "en_concepts", "en_other", "zh"]

WHAT = """what is X|what is X|what's X|whats X|what are X|explain X|explain X to me|define X|describe X|tell me about X
tell me more about X|tell me what X is|what do you mean by X|what does X mean|what is meant by X|meaning of X|definition of X
can you explain X|could you explain X|can you tell me what X is|do you know what X is|i don't understand X|i do not understand X
X explained|X meaning|X definition|what exactly is X|what is X exactly|i want to know what X is|i'd like to know what X is
please explain X|what is X in simple words|what is X good for|say something about X|what's the meaning of X|so what is X
give me a definition of X|how would you describe X|what can you tell me about X|never heard of X, what is it|wtf is X
what in the world is X|can you describe X|please define X|what is X supposed to be|what is X all about|in simple terms what is X
what's X again|remind me what X is|what is the idea of X|what is the purpose of X|could you define X|what does the term X mean
the term X|what do people mean by X|what's X for|what is X used for|how does X work|what should i know about X|what X is
give me a short explanation of X|i've read about X, what is that|what is that X thing|what is the use of X|what are X good for
could you explain X to me please|would you explain X|can someone explain X|help me understand X|i want to understand X|why X
X, what is that|X - what is it|i heard about X, what is it|what is this X|explain what X is|what is X about|could you tell me about X"""
FLAG = """what does X do|what is X for|what is X|explain X|explain the X flag|explain the X option|how do i use X|X|the X flag|the X option
what is the X flag for|what does the X option do|what does the flag X mean|how does X work|tell me about X|what can i do with X
example of X|when do i need X|what is the option X|usage of X|do you know X|is there X|which flag is X|what values does X take"""
COMMAND = """what does ashlar X do|ashlar X|what is ashlar X|how do i use ashlar X|how does ashlar X work|explain ashlar X|explain the X command
the X command|X command|what is the X command|what does the X command do|what does X do|usage of ashlar X|usage of X|what is the command X for
tell me about ashlar X|how do i use the X command|how to use ashlar X|ashlar X usage|ashlar X example|give me an example of ashlar X
what is ashlar X for|when do i use ashlar X|describe the X command|show me how ashlar X works|how does the X command work
what can i do with ashlar X|ashlar X help|example for the X command|what is X in ashlar|how does one use ashlar X|syntax of ashlar X"""
ZH_WHAT = """什么是X|X是什么|X 是什么|X是什么意思|解释一下X|请问什么是X|X是啥|介绍一下X|能解释一下X吗|请解释X|啥是X|说明一下X|X是什么东西
什么叫X|请介绍X|X是什么呢|告诉我X是什么|我想知道X是什么|讲讲X|你知道X是什么吗"""
ZH_HOW = """怎样X|怎么X|如何X|请问怎么X|请问如何X|我想X|X怎么弄|我要X|怎么才能X|告诉我怎么X|用什么命令X|怎么去X|该怎么X|我怎么X|应该如何X
要怎么X|请告诉我如何X|X的方法|X的命令是什么|能教我X吗|我想知道怎么X|帮我X|可以X吗|能不能X|我该怎样X|X要用什么命令|我想要X|有办法X吗"""


def macro(text):
    return [form for line in text.split("\n") for form in line.split("|")]


# G: the item with its first verb in -ing.
GERUNDS = ["what is the best way of G", "what about G", "an example of G", "G", "i am interested in G", "instructions for G", "how does G work",
           "help with G", "is G possible", "what is the command for G", "which command is for G", "tips for G", "how is G done", "i need help with G"]
MACROS = {
    "what": macro(WHAT),
    "flag": macro(FLAG),
    "cmd": macro(COMMAND),
    "how": ["{how} X", "{how} X", "{how} X", "how X", "X", *GERUNDS, "what about if i want to X", "i'm looking for a way to X", "which command would X"],
    "can": ["{can} X", "{can} X", "{can} X", "can you X", "is it able to X", "i wonder if ashlar can X", "tell me whether it can X"],
    "zh什么": macro(ZH_WHAT),
    "zh怎样": macro(ZH_HOW),
}

# How often an intent is asked; else 1, Chinese ones 0.6.
OFTEN = {"off_topic": 9, "not_here": 3, "unclear": 1.5, "hello": 1.6, "architectures": 1.4, "other_architecture": 1.6, "serve": 3,
         "what_is_ashlar": 1.5, "start": 2, "zh_off_topic": 1.5, "curl": 1.3, "python": 1.3, "load_real": 1.3, "limits": 1.3}


def plain(text):
    """Letters and digits only, lower case: two phrasings are the same if this is."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in text if c.isalnum() or c in "+-*/")


class Pattern:
    """One phrasing with choices, parsed once: a list of parts, each a string, a
    slot's name or a list of alternatives."""

    def __init__(self, source, slots):
        self.slots = slots
        self.parts = self._sequence(source)
        self.count = self._count(self.parts)

    def _sequence(self, source):
        parts, at = [], 0
        while at < len(source):
            if source[at] == "[":
                depth, start, options, i = 1, at + 1, [], at + 1
                while depth:
                    c = source[i]
                    depth += (c == "[") - (c == "]")
                    if (c == "|" and depth == 1) or depth == 0:
                        options.append(self._sequence(source[start:i]))
                        start = i + 1
                    i += 1
                parts.append(options)
                at = i
            elif source[at] == "{":
                end = source.index("}", at)
                name = source[at + 1 : end]
                parts.append([self._sequence(item) for item in self.slots[name]])
                at = end + 1
            else:
                end = at
                while end < len(source) and source[end] not in "[{":
                    end += 1
                parts.append(source[at:end])
                at = end
        return parts

    def _count(self, parts):
        total = 1
        for part in parts:
            if isinstance(part, list):
                total *= sum(self._count(option) for option in part)
        return total

    def draw(self, parts=None):
        text = ""
        for part in self.parts if parts is None else parts:
            text += part if isinstance(part, str) else self.draw(random.choice(part))
        return text


class Intent:
    def __init__(self, name):
        self.name, self.answer = name, ""
        self.patterns, self.weights = [], []
        self.follow = []  # (intent, Pattern)
        self.often = OFTEN.get(name, 0.6 if name.startswith("zh_") else 1)

    def add(self, pattern, share=None):
        self.patterns.append(pattern)
        self.weights.append(math.sqrt(min(pattern.count, 400)) if share is None else share)

    def draw(self):
        return random.choices(self.patterns, self.weights)[0].draw()


def gerund(item):
    verb, _, rest = item.partition(" ")
    if verb in ("run", "get", "set", "put", "stop", "begin", "cut", "chat", "swap", "shut", "quit", "spin", "plan", "let"):
        verb += verb[-1]
    elif verb.endswith("e") and not verb.endswith(("ee", "oe")):
        verb = verb[:-1]
    return f"{verb}ing {rest}".strip()


def gibberish():
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(random.choice(letters) for _ in range(random.randint(2, 9))) for _ in range(random.randint(1, 3))]
    return " ".join(words)


class Gibberish:
    count = 400

    def draw(self):
        return gibberish()


def read_slots():
    slots = {}
    for line in (HERE / "data/slots.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, items = line.split(":", 1)
            slots[name] = [item.strip() for item in items.split(" | ")]
    return slots


def read_intents():
    slots, intents = read_slots(), {}
    for file in FILES:
        intent, in_answer = None, False
        for line in (HERE / f"data/{file}.txt").read_text("utf-8").splitlines():
            if line.startswith("== "):
                intent, in_answer = Intent(line[3:].strip()), True
                intents[intent.name] = intent
            elif intent is None or not line:
                continue
            elif in_answer and line != "--":
                intent.answer += ("\n" if intent.answer else "") + line
            elif line == "--":
                in_answer = False
            elif line == "@gibberish":
                intent.add(Gibberish())
            elif line.startswith("@"):
                name, items = line[1:].split(" ", 1)
                items = [item.strip() for item in items.split(" | ")]
                fills = {"X": items, "G": [gerund(item) for item in items if item[0] != "{"] or items}
                forms = [Pattern(re.sub("[XG]", lambda m: "[" + "|".join(fills[m[0]]) + "]", form, 1), slots) for form in MACROS[name]]
                share = math.sqrt(min(sum(f.count for f in forms), 3000)) / len(forms)
                for form in forms:
                    intent.add(form, share)
            elif line.startswith("+ "):
                target, form = line[2:].split(":", 1)
                intent.follow.append((target.strip(), Pattern(form.strip(), slots)))
            else:
                intent.add(Pattern(line, slots))
    for intent in intents.values():
        for target, _ in intent.follow:
            assert target in intents, f"{intent.name}: unknown follow-up {target}"
    return intents, slots


def heldout(file="heldout"):
    """[(user turns, intent or intents)] of data/heldout.txt or data/fresh.txt."""
    cases = []
    for line in (HERE / f"data/{file}.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, turns = line.split(":", 1)
            cases.append(([t.strip() for t in turns.split(" >> ")], name.strip()))
    return cases


NAMES = {"ashlar": "Ashlar", "api": "API", "gguf": "GGUF", "openai": "OpenAI", "http": "HTTP", "tls": "TLS", "https": "HTTPS", "cpu": "CPU",
         "gpu": "GPU", "i": "I", "python": "Python", "linux": "Linux", "kv": "KV", "llm": "LLM", "ttft": "TTFT", "json": "JSON", "llama": "Llama",
         "qwen": "Qwen", "mistral": "Mistral", "chatgpt": "ChatGPT", "prometheus": "Prometheus", "windows": "Windows", "i'm": "I'm", "i'd": "I'd",
         "ssl": "SSL", "yaml": "YAML", "english": "English", "chinese": "Chinese", "q4_k_m": "Q4_K_M", "q8_0": "Q8_0", "bf16": "BF16",
         "france": "France", "germany": "Germany", "china": "China", "avx-512": "AVX-512", "avx2": "AVX2", "ram": "RAM", "javascript": "JavaScript"}
NEAR = {"a": "sq", "e": "wr", "i": "uo", "o": "ip", "u": "yi", "t": "ry", "n": "bm", "s": "ad", "r": "et", "l": "ko", "c": "xv", "d": "sf", "m": "n",
        "p": "ol", "g": "fh", "h": "gj", "b": "vn", "v": "cb", "k": "jl", "w": "qe", "y": "tu", "f": "dg"}
QUESTION = re.compile(r"^(what|how|which|who|where|why|when|can|does|do|is|are|will|may|could|did|was|am|in which|under|on which)\b")
SHORTER = [("what is ", "what's "), ("what is ", "whats "), ("do not", "don't"), ("does not", "doesn't"), ("cannot", "can't"), ("i am ", "i'm "),
           ("i would", "i'd"), ("how do i ", "how do you "), ("you are", "you're"), ("don't", "dont"), ("can't", "cant"), ("what's", "whats"),
           ("please", "pls"), ("you", "u"), ("how do i", "how can i"), ("want to", "wanna"), ("how to", "how do i"), ("thanks", "thx")]


SYNONYMS = {"use": ["utilize", "employ", "work with"], "see": ["view", "look at", "check"], "explain": ["clarify", "describe"], "need": ["require"],
            "fast": ["quick", "speedy"], "big": ["large", "huge"], "small": ["little", "tiny"], "answer": ["reply", "response"],
            "question": ["query"], "program": ["software", "application", "tool"], "computer": ["machine", "pc", "box"], "terminal": ["shell", "console"],
            "send": ["pass", "submit"], "set": ["specify", "configure", "define"], "change": ["modify", "alter", "adjust"], "stop": ["halt", "end"],
            "measure": ["determine", "assess"], "possible": ["doable", "feasible"], "want": ["need", "wish"], "several": ["multiple", "a few", "many"],
            "get": ["obtain", "receive"], "find": ["locate", "discover"], "many": ["lots of"], "model": ["llm", "language model", "network"],
            "server": ["service", "daemon"], "option": ["switch", "setting"], "flag": ["option", "switch", "argument"], "start": ["launch", "fire up"],
            "which": ["what"], "command": ["cmd", "subcommand"], "machine": ["computer", "box", "pc"], "text": ["string", "sentence"],
            "make": ["create", "produce"], "difference": ["distinction"], "api": ["interface", "http api"], "client": ["user", "app"],
            "users": ["people", "clients"], "key": ["api key", "token"], "example": ["sample", "demo"], "supported": ["handled", "accepted"],
            "support": ["handle", "accept"], "two": ["three", "2"], "multiple": ["several", "many"], "show": ["display", "print"], "give": ["provide"],
            "tell": ["inform"], "read": ["open", "parse"], "kind": ["sort", "type"], "file": ["document"], "run": ["execute", "operate"]}
KEPT = {"key": ("kv", "value"), "token": (), "two": ("http",), "show": ("ashlar", "command"), "run": ("ashlar", "command", "./run"), "model": ("gguf",)}


def synonym(text):
    words = text.split(" ")
    found = [i for i, w in enumerate(words) if w in SYNONYMS and not any(k in text for k in KEPT.get(w, ()))]
    if not found:
        return text
    i = random.choice(found)
    words[i] = random.choice(SYNONYMS[words[i]])
    return " ".join(words)


def typo(text):
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha()]
    if not long:
        return text
    i = random.choice(long)
    word = words[i]
    k = random.randrange(len(word) - 1)
    kind = random.random()
    if kind < 0.3:
        word = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    elif kind < 0.6:
        word = word[: k + 1] + word[k + 2 :]
    elif kind < 0.75:
        word = word[: k + 1] + word[k:]
    else:
        word = word[: k + 1] + random.choice(NEAR.get(word[k + 1].lower(), "e")) + word[k + 2 :]
    words[i] = word
    return " ".join(words)


def vary(text, slots, short=False):
    """An English phrasing as people type it: openings, case, punctuation, slips."""
    text = re.sub(r" +", " ", text).strip()
    question = bool(QUESTION.match(text))
    if random.random() < 0.08:
        shorter = [(a, b) for a, b in SHORTER if a in text]
        if shorter:
            text = text.replace(*random.choice(shorter), 1)
    if random.random() < 0.05:
        text = re.sub(r"\b(the|a|an) ", "", text)
    if not short and len(text) > 9:
        if random.random() < 0.1:
            text = synonym(text)
        if random.random() < 0.07:
            words = text.split(" ")
            words.insert(random.randint(1, len(words)), random.choice(slots["filler"]))
            text = " ".join(words)
        if random.random() < 0.12:
            text = random.choice(slots["prefix"]) + " " + text
        if random.random() < 0.08:
            end = random.choice(slots["suffix"])
            text += end if end.startswith(",") else " " + end
    if len(text) > 7:
        if random.random() < 0.13:
            text = typo(text)
        if random.random() < 0.03:
            text = typo(text)
    case = random.random()
    if case < 0.42:
        text = " ".join(NAMES.get(w, w) for w in text.split(" "))
        text = text[:1].upper() + text[1:]
    elif case < 0.5:
        text = text[:1].upper() + text[1:]
    elif case < 0.53:
        text = text.upper()
    elif case < 0.6:
        text = " ".join(NAMES.get(w, w) for w in text.split(" "))
    end = random.random()
    if question:
        text += "?" if end < 0.55 else "??" if end < 0.57 else " ?" if end < 0.59 else "." if end < 0.61 else ""
    else:
        text += "." if end < 0.2 else "!" if end < 0.27 else "?" if end < 0.4 else ""
    return text


def vary_zh(text):
    text = text.strip()
    if random.random() < 0.12:
        text = random.choice(["请问", "请问，", "你好，", "那么", "那", "请", "我想问", "请教一下，", "嗨，"]) + text
    if random.random() < 0.1:
        text += random.choice(["呢", "啊", "，谢谢", "？谢谢", "呀"])
    if random.random() < 0.1:
        text = text.replace(" ", "")
    end = random.random()
    return text + ("？" if end < 0.35 else "?" if end < 0.42 else "。" if end < 0.5 else "")


class Source:
    """Endless dialogs, by the global random generator."""

    def __init__(self):
        self.intents, self.slots = read_intents()
        self.names = list(self.intents)
        self.shares = [self.intents[n].often for n in self.names]
        self.english = [n for n in self.names if not n.startswith("zh_")]
        self.chinese = [n for n in self.names if n.startswith("zh_")]
        self.forbidden = {plain(t) for turns, _ in heldout() for t in turns if len(plain(t)) > 14 or not t.isascii()}

    def turn(self, name, before=None):
        """(intent answered, what the user says)"""
        while True:
            intent = self.intents[name]
            text, target = None, name
            if before and before.follow and random.random() < 0.6:
                target, pattern = random.choice(before.follow)
                text = pattern.draw()
            if text is None:
                text = intent.draw()
            text = re.sub(r" +", " ", text).strip()
            if not text or (target.startswith("zh_") and text.isascii()):
                continue  # "gguf" alone is answered in English
            said = vary_zh(text) if target.startswith("zh_") else vary(text, self.slots, short=target != name or name == "unclear")
            if plain(text) not in self.forbidden and plain(said) not in self.forbidden:
                return target, said

    def dialog(self, turns):
        messages = []
        if random.random() < 0.2:
            messages.append({"role": "system", "content": self.system()})
        before = None
        for _ in range(turns):
            if before and random.random() < 0.8:  # people stay in their language
                names = self.chinese if before.name.startswith("zh_") else self.english
                name = random.choices(names, [self.intents[n].often for n in names])[0]
            else:
                name = random.choices(self.names, self.shares)[0]
            name, said = self.turn(name, before)
            before = self.intents[name]
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": before.answer})
        return messages

    def system(self):
        chosen = random.choice(self.slots["system"])
        if random.random() < 0.25:
            chosen += " " + random.choice(self.slots["system"])
        if random.random() < 0.15:
            chosen = "You are an expert in " + random.choice(self.slots["topic"]) + "."
        return chosen

    def prose(self):
        """Plain text for /v1/completions: a few answers that are sentences."""
        names = [n for n in self.english if n.startswith("what_") or n in ("name_meaning", "features", "licence", "metrics", "memory", "gguf", "story", "http2")]
        return " ".join(self.intents[n].answer.replace("Yes: ", "") for n in random.sample(names, 3))


def main():
    source = Source()
    random.seed(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print(len(source.intents), "intents;", sum(p.count for i in source.intents.values() for p in i.patterns), "phrasings before variation")
    for _ in range(30):
        name = random.choices(source.names, source.shares)[0]
        print(f"{name:20}", source.turn(name)[1])


if __name__ == "__main__":
    main()
