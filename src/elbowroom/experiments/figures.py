"""Figures, drawn on a figure of matplotlib that is given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..results import Gaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_gaps"]

AMORTIZATION, APPROXIMATION = "#0072B2", "#E69F00"  # blue and orange of Okabe and Ito, told apart by everybody


def draw_gaps(figure: "Figure", found: Mapping[str, Mapping[str, Gaps]]) -> None:
    """A bar for each set of each model: the amortization gap and, on top, the approximation gap, with their errors."""
    places = [(model, name, gaps) for model, sets in found.items() for name, gaps in sets.items()]
    figure.set_size_inches(6.5, 0.8 + 0.27 * len(places))
    axes = figure.subplots()
    for at, (_, _, gaps) in enumerate(places):
        left = 0.0
        for step, color in ((gaps.amortization, AMORTIZATION), (gaps.approximation, APPROXIMATION)):
            axes.barh(at, step.mean, left=left, height=0.7, color=color)
            axes.errorbar(left + step.mean, at, xerr=step.se, color="#333333", linewidth=0.8, capsize=2)
            left += step.mean
    axes.set_yticks(range(len(places)), [f"{model}, {name}" for model, name, _ in places], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("nats below log p(x)", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles = [axes.barh(0, 0, color=color) for color in (AMORTIZATION, APPROXIMATION)]
    axes.legend(handles, ["amortization", "approximation"], frameon=False, fontsize=8, loc="best")
