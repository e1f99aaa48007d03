"""Figures, drawn on a figure of matplotlib that is given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..results import Gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "draw_gaps", "draw_only_gaps", "label"]

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # of Okabe and Ito, told apart by everybody
WIDTH, LINE, REST = 6.5, 0.27, 0.8  # inches: of a page's column, of a bar, and of what is around the bars


def draw_only_gaps(figure: "Figure", found: Mapping[str, Mapping[str, Gaps]]) -> None:
    """A figure of `draw_gaps` alone."""
    figure.set_size_inches(WIDTH, REST + LINE * sum(map(len, found.values())))
    draw_gaps(figure.subplots(), found)


def draw_gaps(axes: "Axes", found: Mapping[str, Mapping[str, Gaps]]) -> None:
    """A bar for each set of each model: the amortization gap and, on top, the approximation gap, with their errors."""
    places = [(model, name, gaps) for model, sets in found.items() for name, gaps in sets.items()]
    for at, (_, _, gaps) in enumerate(places):
        left = 0.0
        for step, color in zip((gaps.amortization, gaps.approximation), COLORS, strict=False):
            axes.barh(at, step.mean, left=left, height=0.7, color=color)
            axes.errorbar(left + step.mean, at, xerr=step.se, color="#333333", linewidth=0.8, capsize=2)
            left += step.mean
    axes.set_yticks(range(len(places)), [f"{model}, {name}" for model, name, _ in places])
    axes.invert_yaxis()
    label(axes, "nats below log p(x)")
    handles = [axes.barh(0, 0, color=color) for color in COLORS[:2]]
    axes.legend(
        handles, ["amortization", "approximation"], frameon=False, fontsize=8, loc="lower left", ncols=2,
        bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2,
    )  # fmt: skip


def label(axes: "Axes", x: str, y: str = "") -> None:
    """Write what the axes show, in the sizes of all figures, and leave out the frame where nothing is read off."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
