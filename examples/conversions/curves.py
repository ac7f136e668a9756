"""Draws curves.svg, the training curves of the adapters, from the loss.csv beside each. Standard library only.

python examples/conversions/curves.py
"""

from __future__ import annotations

import csv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADAPTERS = HERE.parents[1] / "pytest_trust" / "models" / "adapters"
PANELS = (
    ("aligned", "demo:aligned: loss, nats per token"),
    ("sft", "demo:sft: loss, nats per token"),
    ("distill", "demo:distill: KL(teacher || student), nats per token"),
    ("rl", "demo:rl: mean reward of the samples, after the cold start"),
)
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 400, 200, 44, 30, 28
SMOOTH = 5  # steps in the mean that the thick line shows


def read(name: str) -> list[float]:
    """The column `loss` of an adapter's loss.csv, step by step."""
    with (ADAPTERS / name / "loss.csv").open(encoding="utf-8") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def smoothed(values: list[float]) -> list[float]:
    """Means over the last `SMOOTH` values."""
    return [
        sum(values[max(0, i - SMOOTH + 1) : i + 1]) / len(values[max(0, i - SMOOTH + 1) : i + 1])
        for i in range(len(values))
    ]


def panel(title: str, values: list[float], x: int, y: int) -> str:
    """One curve with its axes; `x` and `y` are its corner."""
    top = max(values) * 1.05
    across, down = WIDTH - LEFT - 12, HEIGHT - TOP - BOTTOM

    def points(series: list[float]) -> str:
        places = enumerate(series)
        return " ".join(
            f"{x + LEFT + across * i / max(1, len(series) - 1):.1f},{y + TOP + down * (1 - value / top):.1f}"
            for i, value in places
        )

    ground = y + HEIGHT - BOTTOM
    return (
        f'<text x="{x + LEFT}" y="{y + 18}" font-weight="bold">{title}</text>'
        f'<path d="M{x + LEFT},{y + TOP} V{ground} H{x + WIDTH - 12}" fill="none" stroke="#777"/>'
        f'<text x="{x + LEFT - 6}" y="{y + TOP + 8}" text-anchor="end">{max(values):.2g}</text>'
        f'<text x="{x + LEFT - 6}" y="{ground}" text-anchor="end">0</text>'
        f'<text x="{x + LEFT}" y="{ground + 16}">1</text>'
        f'<text x="{x + WIDTH - 12}" y="{ground + 16}" text-anchor="end">step {len(values)}</text>'
        f'<polyline points="{points(values)}" fill="none" stroke="#9ab" stroke-width="1"/>'
        f'<polyline points="{points(smoothed(values))}" fill="none" stroke="#1b4f8a" stroke-width="2"/>'
    )


def drawing() -> str:
    """The picture as SVG."""
    drawn = [panel(title, read(name), WIDTH * (i % 2), HEIGHT * (i // 2)) for i, (name, title) in enumerate(PANELS)]
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT}" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    background = f'<rect width="{2 * WIDTH}" height="{2 * HEIGHT}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(drawn)}</svg>\n'


def main() -> None:
    (HERE / "curves.svg").write_text(drawing(), encoding="utf-8")


if __name__ == "__main__":
    main()
