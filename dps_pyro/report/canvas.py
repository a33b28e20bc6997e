"""One look for all figures, and one figure for all uses: SVG inside the page, PNG beside it.

Figures are drawn once, in the light palette. For the page, each palette colour of the SVG becomes a CSS variable of the
same name, so that the browser switches figures and text to the dark palette together. The accents are Okabe and Ito's
(https://jfly.uni-koeln.de/color/), which people with any of the common colour-vision deficiencies tell apart; lines are
set apart by dashes as well.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dps_pyro.support.extras import needed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1b1e23", "#5c6470", "#e3e6ea", "#ffffff"
BLUE, VERMILION, GREEN, AMBER, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9"
ARMS = (VERMILION, GREEN, PURPLE, AMBER, SKY)
"""The colours of other runs; this run is always blue."""

DARK = {
    "ink": (INK, "#e6e8eb"),
    "muted": (MUTED, "#a0a8b2"),
    "rule": (RULE, "#2d323a"),
    "paper": (PAPER, "#16191d"),
    "blue": (BLUE, "#5ab4ec"),
    "vermilion": (VERMILION, "#f58a4b"),
    "green": (GREEN, "#33c79f"),
    "amber": (AMBER, "#f5bd45"),
    "purple": (PURPLE, "#e2a0c6"),
    "sky": (SKY, "#9bd4f7"),
}
"""CSS name -> (light, dark)."""

_STYLE: Any = {  # Any: the type stubs know the keys only as literals
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's own font
    "svg.hashsalt": "dps_pyro",  # the same run gives the same page, byte for byte
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib in this report's style; figures are to be both drawn and saved inside the block."""
    needed("matplotlib")
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # the report does not depend on the reader's matplotlibrc
        mpl.rcParams.update(_STYLE)
        yield


def figure(width: float = 5.6, height: float = 3.5) -> Figure:
    """An empty figure (inches) that no global registry knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def clean(text: object, limit: int = 60) -> str:
    """Make one line of untrusted text: cut to `limit`, with control characters and bidirectional overrides replaced."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def label(text: object, limit: int = 40) -> str:
    """Make untrusted text for a figure: `clean`, and not read as TeX."""
    return clean(text, limit).replace("$", r"\$")


def thousands(value: float, _position: object = None) -> str:
    """A tick label for counts: 0, 750, 12k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def share_axis(axes: Axes, name: str, low: float | None = 0.0, high: float | None = 1.0) -> None:
    """Make the y axis one of shares, shown in per cent."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(low, high)
    axes.set_ylabel(name)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.grid(visible=False, axis="x")


def rollouts_axis(axes: Axes) -> None:
    """Make the x axis the training rollouts spent."""
    from matplotlib.ticker import FuncFormatter

    axes.set_xlabel("training rollouts")
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_xlim(left=0)


def to_png(drawn: Figure, path: Path) -> None:
    """Write a figure as PNG in the light palette, without a time stamp."""
    drawn.savefig(path, format="png", dpi=200, metadata={"Software": None})


def to_svg(drawn: Figure, slug: str, title: str) -> str:
    """Return the figure as an `<svg>` element for inlining, coloured by the CSS variables of the page.

    Every id gets the prefix `slug`, because the ids of all figures share one page. `title` must be escaped for HTML.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<style\b.*?</style>", "", svg, flags=re.DOTALL
    )  # it would apply to the whole page, which has its own
    view = re.search(r'viewBox="([^"]*)"', svg)
    opening = f'<svg viewBox="{view.group(1) if view else ""}" role="img" aria-label="{title}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{slug}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{slug}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    svg = re.sub(r"(font: (?:[\w.]+ )*?[\d.]+px) [^;\"]*", r"\1 var(--sans)", svg)  # as Matplotlib < 3.10 writes it
    for name, (light, _) in DARK.items():
        svg = svg.replace(f": {light}", f": var(--{name})")
    return svg.strip()
