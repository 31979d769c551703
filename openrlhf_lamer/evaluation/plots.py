"""Estimates as pictures: points or lines with their intervals, in panels side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import Any, Literal

from openrlhf_lamer.evaluation.statistics import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's, which the colour-blind can tell apart, and a brown; each has a different marker too."""

MARKERS = "osD^vPX*"

MANY = 8
"""Number of points from which intervals are drawn as a band."""

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.hashsalt": "openrlhf-lamer",
}


@dataclass(frozen=True)
class Series:
    """Series under one label: an estimate at each place.

    Attributes:
        label: For the legend; equal labels of a figure have one colour and one entry.
        at: Places on the horizontal axis.
        estimates: One for each place; shares are drawn in per cent.
        dashed: Draw it dashed and hollow, as another measure of the same thing.
    """

    label: str
    at: Sequence[float]
    estimates: Sequence[Estimate]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Its title.
        across: Name of the horizontal axis.
        up: Name of the vertical axis.
        series: The series to draw.
        share: Whether the vertical axis is a share, 0 to 100%.
        ceiling: A value that cannot be exceeded, drawn as a line; a share as 0 to 1.
        places: Names of the places on the horizontal axis, where they are no numbers; no lines join them then.
    """

    title: str
    across: str
    up: str
    series: Sequence[Series]
    share: bool = False
    ceiling: float | None = None
    places: Mapping[float, str] = field(default_factory=dict)


def draw(panels: Sequence[Panel], form: Literal["svg", "png"]) -> bytes:
    """The panels side by side, four and more in two columns, with one legend; the same panels give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    looks: dict[str, tuple[str, str]] = dict(zip(labels, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False))
    with mpl.rc_context(STYLE):
        across = len(panels) if len(panels) < 4 else 2
        down = -(-len(panels) // across)
        figure = Figure(figsize=(max(6.0, 4.6 * across), 0.5 + 3.7 * down), layout="constrained")
        every: Any = figure.subplots(down, across, squeeze=False).flat
        handles: dict[str, Any] = {}
        for panel, axes in zip(panels, every, strict=False):
            _draw(axes, panel, looks, handles)
        for axes in every:
            axes.set_axis_off()
        # A label that begins with an underscore is left out of legends.
        names = [f" {label}" if label.startswith("_") else label for label in handles]
        if len(names) > 1 or len(panels) > 1:
            columns = min(4 if across > 1 else 3, len(names))
            figure.legend(handles.values(), names, loc="outside lower center", ncols=columns)
        content = io.BytesIO()
        figure.savefig(content, format=form, dpi=130, metadata={"Date": None} if form == "svg" else None)
    return content.getvalue()


def _draw(axes: Any, panel: Panel, looks: dict[str, tuple[str, str]], handles: dict[str, Any]) -> None:
    many = any(len(series.at) >= MANY for series in panel.series)
    ticks = sorted({place for series in panel.series for place in series.at})
    labels = list(dict.fromkeys(series.label for series in panel.series))
    gap = min((after - before for before, after in pairwise(ticks)), default=1.0)
    for series in panel.series:
        scale = 100 if panel.share else 1
        colour, marker = looks[series.label]
        known = [(x, e) for x, e in zip(series.at, series.estimates, strict=True) if not math.isnan(e.value)]
        # Side by side, so that intervals do not hide each other.
        aside = 0.0 if many else 0.04 * gap * (labels.index(series.label) - (len(labels) - 1) / 2)
        x = [place + aside for place, _ in known]
        y = [scale * e.value for _, e in known]
        # Where nothing is known of other tasks, there is no interval to draw.
        low = [scale * (e.value if math.isnan(e.low) else e.low) for _, e in known]
        high = [scale * (e.value if math.isnan(e.high) else e.high) for _, e in known]
        look = {"color": colour, "linestyle": "none" if panel.places else "--" if series.dashed else "-"}
        if many:
            (handle,) = axes.plot(x, y, linewidth=1.8, **look)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        else:
            # An end may lie on the value, or a rounding error beyond it.
            spread = [[max(0.0, b - a) for a, b in zip(*ends, strict=True)] for ends in ((low, y), (y, high))]
            look |= {"marker": marker, "markerfacecolor": "white" if series.dashed else colour}
            handle = axes.errorbar(x, y, spread, capsize=3, linewidth=1.6, elinewidth=1.1, **look)
        handles.setdefault(series.label, handle)
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set(xlabel=panel.across, ylabel=panel.up)
    if not many:
        axes.set_xticks(ticks, [panel.places[place] for place in ticks] if panel.places else None)
        axes.margins(x=0.12)
    if panel.ceiling is not None:
        ceiling = panel.ceiling * (100 if panel.share else 1)
        axes.axhline(ceiling, color="0.45", linestyle=":", linewidth=1.2)
        at: Any = {"xy": (0.99, ceiling), "xycoords": ("axes fraction", "data")}
        axes.annotate("at most", **at, ha="right", va="bottom", color="0.35")
        axes.set_ylim(0, 1.08 * max(ceiling, axes.get_ylim()[1] / 1.08))
    if panel.share:
        axes.set_ylim(-2, 102)
    elif panel.ceiling is None:
        axes.set_ylim(bottom=0)
