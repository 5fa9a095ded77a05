"""Whom the workers attend to: each reader's shares over time, what it pays others in each layer, and who whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hogwild.report.attention import (
    OTHERS,
    Array,
    Shares,
    has_attention,
    kinds_of_sessions,
    kinds_of_shares,
    mean_of,
    sessions_of,
)
from hogwild.report.curves import Curve
from hogwild.report.pictures.style import COLOURS, MARKERS, Look, legend_below, number_text, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_READERS = 4  # with more, one panel shows the mean of all
MOST_NUMBERS = 12  # columns beside each other that have room for numbers
_GREYS = ("#8c8c8c", "#bdbdbd", "#e3e3e3")


def attention_curve(curves: Sequence[Curve]) -> Curve | None:
    """Of the methods whose rows have attention shares, the one whose workers attend to each other most."""
    found = [curve for curve in curves if any(map(has_attention, curve.rows))]
    return max(found, key=lambda curve: kinds_of_sessions(sessions_of(curve))[OTHERS], default=None)


def attention_figure(curve: Curve) -> Figure:
    """Means of a method's sessions."""
    from matplotlib.patches import Patch

    sessions = sessions_of(curve)
    columns, readers = sessions[0].columns, sessions[0].num_readers
    passes, over_time = _over_time(sessions)
    layers = mean_of(np.stack([one.layers for one in sessions]))
    others = layers[:, :, :readers].sum(axis=2) - np.diagonal(layers, axis1=1, axis2=2)
    if readers <= MOST_READERS:
        kinds, num_coloured = columns, readers
        stacks = [
            (f"{name} reads", over_time[:, at], _order(at, readers, len(kinds)))
            for at, name in enumerate(columns[:readers])
        ]
    else:
        kinds, num_coloured, others = sessions[0].kinds, 2, mean_of(others, axis=1)[:, None]
        stacks = [("mean of all readers", kinds_of_shares(over_time, readers), [*range(len(kinds))])]
    colours = [*COLOURS[:num_coloured], *(_GREYS[at % len(_GREYS)] for at in range(len(kinds) - num_coloured))]
    figure, axes = panels(len(stacks) + 2, height=2.3)
    for axis, (title, shares, order) in zip(axes, stacks, strict=False):
        _stack(axis, passes, shares, order, colours)
        axis.set_title(f"{curve.label}: {title}")
    _by_layer(axes[-2], others)
    _matrix(axes[-1], mean_of(np.stack([one.mean for one in sessions])), columns)
    legend_below(figure, [Patch(facecolor=colour) for colour in colours], kinds)
    return figure


def _over_time(sessions: Sequence[Shares]) -> tuple[Array, Array]:
    """The ends of all intervals, `[T]`, and the mean `[T, R, K]` of the sessions that have them."""
    passes = sorted({float(p) for one in sessions for p in one.passes})
    tables = np.full((len(sessions), len(passes), *sessions[0].shares.shape[1:]), np.nan)
    for number, one in enumerate(sessions):
        tables[number, np.searchsorted(passes, one.passes)] = one.shares
    return np.array(passes), mean_of(tables)


def _order(reader: int, num_readers: int, num_columns: int) -> list[int]:
    """From below: the reader's own text, the others', what is shared."""
    return [reader, *(other for other in range(num_readers) if other != reader), *range(num_readers, num_columns)]


def _stack(axis: Axes, passes: Array, shares: Array, order: Sequence[int], colours: Sequence[str]) -> None:
    """Columns `[T, K]` on top of each other, one step for each interval."""
    from matplotlib.ticker import FuncFormatter

    edges, low = np.concatenate([[0.0], passes]), np.zeros(len(passes) + 1)
    for column in order:
        values = 100 * shares[:, column]
        high = low + np.concatenate([values[:1], values])
        axis.fill_between(edges, low, high, step="pre", color=colours[column], linewidth=0)
        axis.plot(edges, high, drawstyle="steps-pre", color="white", linewidth=0.6)
        low = high
    axis.set_xlim(0, passes[-1])
    axis.set_ylim(0, 100)
    axis.grid(visible=False)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axis.set_xlabel("pass")
    axis.set_ylabel("share of attention (%)")


def _by_layer(axis: Axes, others: Array) -> None:
    """What each reader, or the mean of all, pays to all other workers together: `[L, R]`."""
    from matplotlib.ticker import MaxNLocator

    number, readers = np.arange(1, len(others) + 1), others.shape[1]
    for reader in range(readers):
        look = Look(COLOURS[reader] if readers > 1 else "black", MARKERS[reader])
        axis.plot(number, 100 * others[:, reader], markevery=max(1, len(others) // 10), **look.line())
    axis.set_ylim(bottom=0)
    axis.set_xlim(0.5, len(others) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("layer")
    axis.set_ylabel("share on other workers (%)")
    axis.set_title("over the layers, by reader" if readers > 1 else "over the layers")


def _matrix(axis: Axes, shares: Array, columns: Sequence[str]) -> None:
    means = 100 * shares
    highest, is_wide = max(1.0, float(np.nanmax(means))), len(columns) > 2 * MOST_READERS
    axis.imshow(means, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for (reader, column), value in np.ndenumerate(means if len(columns) <= MOST_NUMBERS else means[:0]):
        text = f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value > 0 else "0" if value == 0 else "–"
        dark = value > 0.6 * highest
        axis.text(column, reader, text, ha="center", va="center", color="white" if dark else "black", fontsize=7.5)
    labels = columns if is_wide else [column.replace(" ", "\n") for column in columns]
    axis.set_xticks(range(len(columns)), labels, rotation=90 if is_wide else 0)
    axis.set_yticks(range(len(means)), columns[: len(means)])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("attends to")
    axis.set_ylabel("reader")
    axis.set_title("mean share of attention (%)")
