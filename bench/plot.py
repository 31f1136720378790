#!/usr/bin/env python3
"""Draws the rows of bench/compare.py: how many times the peer's speed, and which share of the machine's limit.

  bench/plot.py docs/benchmarks/*.json

writes NAME-ratio.svg (rows that have a peer) and NAME-share.svg beside each NAME.json. A file holds {"title", "machine",
"peer_title", "rows": [{"group", "label", "test", "ours", "peer", "ratio", "share", "bound_by", "unsure"}]}; only group, label, test and
one of ratio and share must be there. The pictures follow the reader's light or dark setting.
"""
import json
import sys
from html import escape
from math import ceil
from pathlib import Path

WIDTH, LEFT, RIGHT, ROW, HEAD = 860, 210, 230, 22, 34

STYLE = """
  text { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  .title { font-size: 15px; font-weight: 600; } .group { font-size: 13px; font-weight: 600; }
  .page { fill: #ffffff; } .ink { fill: #1f2328; } .soft { fill: #59636e; } .grid { stroke: #d1d9e0; } .mark { stroke: #59636e; }
  .prefill { fill: #0969da; } .decode { fill: #1a7f37; } .both { fill: #8250df; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } .ink { fill: #f0f6fc; } .soft { fill: #9198a1; } .grid { stroke: #30363d; } .mark { stroke: #9198a1; }
    .prefill { fill: #4493f8; } .decode { fill: #3fb950; } .both { fill: #ab7df8; } text { stroke: #0d1117; }
  }
"""


def phase(test):
    if "+" in test or "shared" in test:
        return "both"
    return "prefill" if test.startswith("pp") else "decode"


def step_for(most):
    """A round distance between grid lines, for four to eight of them."""
    step = 1.0
    while most / step > 8:
        step *= 2 if str(step)[0] in "15" else 2.5
    while most / step < 4:
        step /= 2
    return step


class Picture:
    def __init__(self):
        self.parts, self.y = [], 0

    def text(self, x, y, words, style="ink", anchor="start"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, x, top, bottom, style):
        self.parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="{style}" stroke-width="1"/>')

    def svg(self, label):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.y:.0f}" viewBox="0 0 {WIDTH} {self.y:.0f}" '
                f'role="img" aria-label="{escape(label, quote=True)}">\n<style>{STYLE}</style>\n'
                f'<rect class="page" width="100%" height="100%" rx="6"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def legend(picture, rows):
    names = {"prefill": "prefill", "decode": "decode", "both": "prompts and decode"}
    x = LEFT
    for kind, words in names.items():
        if any(phase(row["test"]) == kind for row in rows):
            picture.parts.append(f'<rect x="{x}" y="{picture.y - 9}" width="10" height="10" rx="2" class="{kind}"/>')
            picture.text(x + 15, picture.y, words, "soft")
            x += 40 + 6.5 * len(words)
    picture.y += 14


def draw(document, rows, heading, value, most, mark, tick, note):
    """Horizontal bars of value(row) on a scale from 0 to `most`, a line at `mark`, note(row) behind each bar."""
    picture = Picture()
    scale = (WIDTH - LEFT - RIGHT) / most
    picture.y = 28
    picture.text(16, picture.y, heading, "ink title")
    if document.get("machine"):
        picture.y += 20
        picture.text(16, picture.y, document["machine"], "soft")
    picture.y += 24
    legend(picture, rows)
    top, bars, last = picture.y, [], None
    for row in rows:
        if row["group"] != last:
            picture.y += HEAD
            picture.text(16, picture.y - 10, row["group"], "ink group")
            last = row["group"]
        picture.text(LEFT - 10, picture.y + 14, f'{row["label"]}  {row["test"]}', "ink", "end")
        width = max(1.0, value(row) * scale)
        bars.append(f'<rect x="{LEFT}" y="{picture.y + 3}" width="{width:.1f}" height="{ROW - 7}" rx="2" class="{phase(row["test"])}"/>')
        picture.text(LEFT + width + 6, picture.y + 14, note(row), "ink")
        picture.y += ROW
    step = step_for(most)
    for i in range(int(most / step + 1e-9) + 1):
        x = LEFT + i * step * scale
        picture.parts.insert(0, f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 10}" y2="{picture.y}" class="grid" stroke-width="1"/>')
        picture.text(x, picture.y + 16, tick(i * step), "soft", "middle")
    picture.parts += bars
    picture.line(LEFT + mark * scale, top + 10, picture.y, "mark")
    picture.y += 30
    return picture.svg(heading)


def unsure(row):
    return " (disturbed)" if row.get("unsure") else ""


def ratio_picture(document):
    rows = [row for row in document["rows"] if "ratio" in row]
    if not rows:
        return None
    peer = document.get("peer_title", "llama.cpp")

    def note(row):
        speeds = f' · {row["ours"]:,.0f} beside {row["peer"]:,.0f} tokens/s' if "peer" in row else ""
        return f'{row["ratio"]:.1f}×{speeds}{unsure(row)}'

    most = max(2.0, ceil(max(row["ratio"] for row in rows)))
    heading = f'{document.get("title", "Ashlar")}: times the speed of {peer}'
    return draw(document, rows, heading, lambda row: row["ratio"], most, 1, lambda at: f"{at:g}×", note)


def share_picture(document):
    rows = [row for row in document["rows"] if "share" in row]
    if not rows:
        return None

    def note(row):
        bound = row.get("bound_by")
        of = {"memory": " of bandwidth", "both": "", None: ""}.get(bound, f" of {bound} peak")
        return f'{100 * row["share"]:.0f} %{of}{unsure(row)}'

    heading = f'{document.get("title", "Ashlar")}: share of what the machine can do'
    most = max(1.0, max(row["share"] for row in rows))
    return draw(document, rows, heading, lambda row: row["share"], most, 1, lambda at: f"{100 * at:g} %", note)


def together(rows):
    """Rows of a group side by side, and of a label in it, each in the order of its first row."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    labels = list(dict.fromkeys((row["group"], row["label"]) for row in rows))
    return sorted(rows, key=lambda row: (groups.index(row["group"]), labels.index((row["group"], row["label"]))))


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip())
    for name in sys.argv[1:]:
        path = Path(name)
        document = json.loads(path.read_text())
        document["rows"] = together(document["rows"])
        for kind, picture in ("ratio", ratio_picture(document)), ("share", share_picture(document)):
            if picture:
                out = path.with_name(f"{path.stem}-{kind}.svg")
                out.write_text(picture)
                print(out)


if __name__ == "__main__":
    main()
