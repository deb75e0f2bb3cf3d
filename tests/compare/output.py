"""The table, as text and as Markdown, and the plot, as SVG."""

import math
import pathlib
import platform
import re
import statistics
import subprocess
from xml.sax.saxutils import escape

BEGIN, END = "<!-- tests/compare: begin -->", "<!-- tests/compare: end -->"


class Line:
    """One row with its medians, and how they stand to floor and goal."""

    def __init__(self, row, kept):
        self.row, self.note = row, kept["note"]
        self.kvd = statistics.median(kept["kvd"])
        self.other = statistics.median(kept["other"]) if kept["other"] else None
        self.figure = self.kvd if row.absolute else self.kvd / self.other
        self.above_floor = self.meets(row.floor)
        if row.name == "snapshot1g":
            self.above_floor = self.kvd <= max(row.floor * self.other, self.other + 20)
        self.above_goal = self.meets(row.goal)
        self.verdict = "goal" if self.above_goal else "floor" if self.above_floor else "MISSED"

    def meets(self, bound):
        return self.figure <= bound if self.row.lower_is_better else self.figure >= bound

    def bound(self, value):
        return amount(value, self.row.unit) if self.row.absolute else f"{value:g}x"

    def cells(self):
        row = self.row
        return [
            row.title, row.other or "-", amount(self.kvd, row.unit),
            amount(self.other, row.unit) if self.other is not None else "-",
            "-" if row.absolute else f"{self.figure:.2f}x", self.bound(row.floor), self.bound(row.goal), self.verdict,
        ]


HEADINGS = ["work (256-byte values)", "against", "kvd", "the other", "ratio", "floor", "goal", "met"]


def amount(value, unit):
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit.startswith('/') else ' '}{unit}"


def text(lines, machine):
    table = [HEADINGS] + [line.cells() for line in lines]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(HEADINGS))]
    out = ["  ".join(cell.ljust(width) if i < 2 else cell.rjust(width)
                     for i, (cell, width) in enumerate(zip(cells, widths))).rstrip() for cells in table]
    notes = [f"{line.row.name}: {line.note}" for line in lines if line.note]
    return "\n".join(out + [""] + notes + [machine])


def markdown(lines, machine):
    out = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    out += ["| " + " | ".join(line.cells()) + " |" for line in lines]
    notes = [f"- {line.row.title}: {line.note}." for line in lines if line.note]
    picture = ["![How many times better than what it is compared with](performance.svg)"]
    return "\n".join(out + [""] + notes + [""] * bool(notes) + [f"{machine}", ""] + picture)


def into_document(path, content):
    """Replaces what stands between the two marks."""
    document = path.read_text()
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise SystemExit(f"{path} lacks the marks {BEGIN} and {END}, or has them twice")
    path.write_text(re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: f"{BEGIN}\n{content}\n{END}", document,
                           flags=re.S))


def machine(directory):
    """What was measured on, in one sentence."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / (1 << 20)
    cores = len([l for l in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("processor")])
    filesystem = first(["stat", "-f", "-c", "%T", str(directory)])
    versions = ", ".join([
        first(["etcd", "--version"]).replace("etcd Version:", "etcd"),
        "Redis " + re.search(r"v=([\d.]+)", first(["redis-server", "--version"]) + " v=?")[1],
        first(["rustc", "--version"]).split(" (")[0],
    ])
    return (f"Machine: {cpu[1] if cpu else platform.machine()}, {cores} cores, {memory:.0f} GiB of memory, Linux "
            f"{platform.release()}, {filesystem}; {versions}.")


def first(command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, IndexError):
        return f"{command[0]} ?"


# --- the plot: a bar a row, on a logarithmic scale of "times better"; a line for the floor, one for the goal -----------
WIDTH, LEFT, RIGHT, PITCH, TOP, BAR = 960, 360, 150, 34, 74, 16
COLOURS = {"goal": "#2a7f4f", "floor": "#3b6fb0", "MISSED": "#b8442f"}


def better(line, value):
    """`value` (a ratio, or absolute against the floor) as "times better": above 1 is better than the other."""
    if line.row.absolute:
        return line.row.floor / value
    return 1 / value if line.row.lower_is_better else value


def svg(lines):
    values = [better(line, v) for line in lines for v in (line.figure, line.row.floor, line.row.goal)]
    low = min(0.25, 2 ** math.floor(math.log2(min(values))))
    high = max(8, 2 ** math.ceil(math.log2(max(values))))
    span = WIDTH - LEFT - RIGHT

    def x(value):
        return LEFT + span * math.log(value / low) / math.log(high / low)

    height = TOP + PITCH * len(lines) + 58
    bottom = TOP + PITCH * len(lines)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="20" y="28" font-size="17" font-weight="bold" fill="#222">kvd against others: how many times better</text>',
        '<text x="20" y="48" fill="#555">Medians; logarithmic. Ratios where less is better are inverted. '
        'Absolute bounds: against the floor.</text>',
    ]
    tick = low
    while tick <= high * 1.001:
        at, strong = x(tick), abs(tick - 1) < 1e-9
        out.append(f'<line x1="{at:.1f}" y1="{TOP - 6}" x2="{at:.1f}" y2="{bottom}" '
                   f'stroke="{"#555" if strong else "#ddd"}" stroke-width="1"/>')
        out.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{tick:g}x</text>')
        tick *= 2
    for number, line in enumerate(lines):
        middle = TOP + PITCH * number + PITCH / 2
        value, one = x(better(line, line.figure)), x(1)
        left, width = min(value, one), max(abs(value - one), 1)
        out.append(f'<text x="{LEFT - 12}" y="{middle - 2:.1f}" text-anchor="end" fill="#222">{escape(line.row.title)}</text>')
        against = f"against {line.row.other}" if line.row.other else f"bound: {line.bound(line.row.floor)}"
        out.append(f'<text x="{LEFT - 12}" y="{middle + 11:.1f}" text-anchor="end" font-size="10" fill="#777">{escape(against)}</text>')
        out.append(f'<rect x="{left:.1f}" y="{middle - BAR / 2}" width="{width:.1f}" height="{BAR}" '
                   f'fill="{COLOURS[line.verdict]}"/>')
        for bound, dash in ((line.row.floor, ""), (line.row.goal, ' stroke-dasharray="3 2"')):
            at = x(better(line, bound))
            out.append(f'<line x1="{at:.1f}" y1="{middle - 13}" x2="{at:.1f}" y2="{middle + 13}" stroke="#111" '
                       f'stroke-width="2"{dash}/>')
        figures = amount(line.kvd, line.row.unit)
        if line.other is not None:
            figures += f" v. {amount(line.other, line.row.unit)}"
        out.append(f'<text x="{WIDTH - RIGHT + 10}" y="{middle + 4:.1f}" font-size="11" fill="#222">{escape(figures)}</text>')
    legend = bottom + 40
    at = 20
    for verdict, words in (("goal", "goal met"), ("floor", "floor met"), ("MISSED", "floor missed")):
        out.append(f'<rect x="{at}" y="{legend - 10}" width="12" height="12" fill="{COLOURS[verdict]}"/>')
        out.append(f'<text x="{at + 17}" y="{legend}" fill="#222">{words}</text>')
        at += 110
    for dash, words in (("", "floor"), (' stroke-dasharray="3 2"', "goal")):
        out.append(f'<line x1="{at + 6}" y1="{legend - 13}" x2="{at + 6}" y2="{legend + 5}" stroke="#111" stroke-width="2"{dash}/>')
        out.append(f'<text x="{at + 17}" y="{legend}" fill="#222">{words}</text>')
        at += 80
    out.append("</svg>\n")
    return "\n".join(out)
