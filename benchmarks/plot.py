"""A plot of CPU per call, written as SVG by hand: one line per target, every round a dot, the best one a bar's end."""

import math
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.bench import Bench
from benchmarks.wire import LEGACY

WIDTH: Final = 900
LEFT: Final = 190
RIGHT: Final = 110
ROW: Final = 26
TOP: Final = 62
BOTTOM: Final = 46
COLOURS: Final = {True: "#2f6f9f", False: "#b3622b"}
STYLE: Final = "font-family='system-ui, sans-serif' font-size='12' fill='#222'"


def write_plot(bench: Bench, file: Path) -> None:
    """CPU ms per call on a logarithmic axis; nothing is written when no call was measured."""
    rows = [
        (name, protocol, [window.cpu_ms for window in found])
        for name in bench.names
        for protocol in bench.plan.protocols
        if (found := bench.found("cpu", name, protocol))
    ]
    if not rows:
        return
    low = math.floor(math.log10(min(min(costs) for _, _, costs in rows)))
    high = math.ceil(math.log10(max(max(costs) for _, _, costs in rows)))
    span = max(1, high - low)

    def x(cost: float) -> float:
        return LEFT + (math.log10(cost) - low) / span * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(rows) + BOTTOM
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' viewBox='0 0 {WIDTH} {height}'>",
        f"<rect width='{WIDTH}' height='{height}' fill='white'/>",
        f"<text x='16' y='24' {STYLE} font-weight='bold'>CPU per tools/call, user and system, all processes</text>",
        f"<text x='16' y='42' {STYLE}>bar: best round; dots: every round; logarithmic axis; shorter is better</text>",
    ]
    bottom = height - BOTTOM
    for decade in range(low, low + span + 1):
        at = x(10.0**decade)
        lines.append(f"<line x1='{at:.1f}' y1='{TOP - 8}' x2='{at:.1f}' y2='{bottom}' stroke='#ddd'/>")
        lines.append(f"<text x='{at:.1f}' y='{bottom + 18}' {STYLE} text-anchor='middle'>{10.0**decade:g} ms</text>")
    for index, (name, protocol, costs) in enumerate(rows):
        y = TOP + ROW * index
        colour = COLOURS[protocol == LEGACY]
        best = min(costs)
        label = escape(f"{name}  {protocol}")
        lines.append(f"<text x='{LEFT - 10}' y='{y + 13}' {STYLE} text-anchor='end'>{label}</text>")
        lines.append(f"<rect x='{LEFT}' y='{y + 3}' width='{x(best) - LEFT:.1f}' height='{ROW - 12}' fill='{colour}'/>")
        lines += [f"<circle cx='{x(cost):.1f}' cy='{y + 10}' r='2.5' fill='none' stroke='#222'/>" for cost in costs]
        lines.append(f"<text x='{x(max(costs)) + 8:.1f}' y='{y + 14}' {STYLE}>{best:.3g}</text>")
    lines.append("</svg>")
    file.write_text("\n".join(lines) + "\n")
