"""Makes README's table and plot from the results of `hogwild bench` that are committed.

    python -m bench.report          # the table goes between the markers of README.md, the plot to docs/images
    python -m bench.report --check  # only says whether README's table is up to date: exit code 1 if not

The table needs nothing but this project; the plot needs matplotlib: pip install 'hogwild[eval]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hogwild.bench import DecodeResult, Report, report_from_dict

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_FRAMEWORKS = {"cuda": "torch", "mlx": "MLX", "reference": "NumPy"}  # `cuda` also runs on CPUs
NOTHING = "No result of `hogwild bench` has been committed yet."
PLOT = "bench"
Named = tuple[str, Report]


def read_results(folder: Path) -> list[Named]:
    """File name and report of every result; other JSON files are left out."""
    found = [(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    return [(name, report_from_dict(data, name)) for name, data in found if data.get("benchmark") == "hogwild"]


def block(results: Sequence[Named], images: str = "docs/images") -> str:
    """What stands between the markers: the table, where it comes from, the plot."""
    if not results:
        return NOTHING
    counts = sorted({entry.workers for _, report in results for entry in report.decode})
    lines = [
        "| model, machine | context | "
        + " | ".join(f"W={count}" for count in counts)
        + " | floor reached | vs batch |",
        "|---|--:|" + "--:|" * len(counts) + "---|---|",
        *(row for _, report in results for row in _rows(report, counts)),
    ]
    sources = [f"- [{name}](bench/results/{name}): `{report.command}`" for name, report in results]
    legend = (
        "Tokens per second of all W workers together, and how many times one worker's. Floor reached: of what the "
        "bandwidth of a large copy allows if every weight, key and value byte moves once. Vs batch: time of a pass, "
        "as a part of that of an independent batch of the same size and lengths in the same framework; "
        "both in the order of W."
    )
    picture = f"![Tokens per second by number of workers, with the limit of memory bandwidth]({images}/{PLOT}.svg)"
    return "\n".join([*lines, "", legend, "", *sources, "", picture])


def write_plot(results: Sequence[Named], folder: Path) -> None:
    """`bench.png` and `bench.svg`: one panel for each result."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "hogwild", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, len(results), figsize=(4.4 * len(results) + 0.4, 4.3), squeeze=False)
    for axis, (_, report) in zip(axes[0], results, strict=True):
        _panel(axis, report)
    axes[0][0].set_ylabel("tokens per second, all workers")
    _legend(figure)
    figure.tight_layout(rect=(0, 0.16 if len(results) == 1 else 0.07, 1, 1))
    for axis, (_, report) in zip(axes[0], results, strict=True):
        _label(axis, report)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{PLOT}.png", dpi=160)
    figure.savefig(folder / f"{PLOT}.svg", metadata={"Date": None})
    plt.close(figure)


def with_block(page: str, text: str) -> str:
    """The page with `text` between its markers; `ValueError` if it has none."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs {BEGIN} and, after it, {END}, once each")
    return f"{page.partition(BEGIN)[0]}{BEGIN}\n\n{text}\n\n{END}{page.partition(END)[2]}"


def _rows(report: Report, counts: Sequence[int]) -> list[str]:
    return [_row(report, context, counts) for context in sorted({entry.context for entry in report.decode})]


def _row(report: Report, context: int, counts: Sequence[int]) -> str:
    found = {entry.workers: entry for entry in report.decode if entry.context == context}
    cases = [found[count] for count in counts if count in found]
    speeds = [_speed(report, found[count]) if count in found else "–" for count in counts]
    reached = " / ".join(f"{100 * entry.floor_reached:.0f} %" for entry in cases)
    overheads = " / ".join("–" if entry.overhead is None else f"{entry.overhead:.2f}" for entry in cases)
    cells = [title(report), f"{context:,}", *speeds, reached, overheads if report.batch else "–"]
    return "| " + " | ".join(cells) + " |"


def _speed(report: Report, entry: DecodeResult) -> str:
    speedup = report.speedup(entry)
    number = f"{entry.tokens_per_second:,.0f}" if entry.tokens_per_second >= 100 else f"{entry.tokens_per_second:.1f}"
    return number if speedup is None or entry.workers == 1 else f"{number} ({speedup:.2f}×)"


def title(report: Report) -> str:
    """Model, dtype, framework and hardware in a few words."""
    model, machine = report.model, report.machine
    gpu = machine.get("gpu")
    where = gpu.get("device_name") if isinstance(gpu, dict) else gpu
    random = ", random weights" if model["random_weights"] else ""
    return f"{model['name']}{random}, {model['dtype']}, {_framework(model)}, {where or _cpu(machine)}"


def _framework(model: Mapping[str, Any]) -> str:
    """With the kernels, if they were taken."""
    name, attention = _FRAMEWORKS[model["backend"]], str(model["attention"]).partition(",")[0].partition(";")[0]
    return f"{name} with {attention}" if attention.endswith("kernels") else name


def _cpu(machine: dict[str, object]) -> str:
    name = str(machine["processor"]).split("@")[0].replace("(R)", "").replace("Processor", "").strip()
    return f"{name}, {machine['cores']} cores"


_LABEL_POINTS = 11
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: told apart by everybody
_STYLES: dict[str, dict[str, object]] = {
    "workers over one shared cache": {"marker": "o", "linestyle": "-", "linewidth": 2.0, "markersize": 5},
    "independent batch": {
        "marker": "s",
        "linestyle": ":",
        "linewidth": 1.4,
        "markersize": 4,
        "markerfacecolor": "white",
    },
    "limit of memory bandwidth": {"linestyle": "--", "linewidth": 1.2, "alpha": 0.8},
}
_VALUES: dict[str, Callable[[DecodeResult], float | None]] = {
    "workers over one shared cache": lambda entry: entry.tokens_per_second,
    "independent batch": lambda entry: 1000 * entry.workers / entry.batch_ms_p50 if entry.batch_ms_p50 else None,
    "limit of memory bandwidth": lambda entry: 1000 * entry.workers / entry.floor_ms,
}


def _panel(axis, report: Report) -> None:  # type: ignore[no-untyped-def]
    contexts = sorted({entry.context for entry in report.decode})
    for colour, context in zip(_COLOURS, contexts, strict=False):
        cases = sorted((entry for entry in report.decode if entry.context == context), key=lambda entry: entry.workers)
        for name, style in _STYLES.items():
            points = [(entry.workers, value) for entry in cases if (value := _VALUES[name](entry)) is not None]
            axis.plot([x for x, _ in points], [y for _, y in points], color=colour, **style)
    _scale(axis, sorted({entry.workers for entry in report.decode}))
    axis.set_title(title(report).replace(", ", "\n", 1), fontsize=9, loc="left")


def _label(axis, report: Report) -> None:  # type: ignore[no-untyped-def]
    """The context of each curve at its end, once the axes have their final place; names that overlap are pushed up."""
    axis.get_ylim()  # the limits are computed when they are asked for
    lowest = float("-inf")
    contexts = sorted({entry.context for entry in report.decode})
    ends = [
        (*max((e.workers, e.tokens_per_second) for e in report.decode if e.context == context), context, colour)
        for colour, context in zip(_COLOURS, contexts, strict=False)
    ]
    for x, y, context, colour in sorted(ends, key=lambda end: end[1]):
        place = axis.transData.transform((x, y))[1] * 72 / axis.figure.dpi
        lowest = max(place, lowest + _LABEL_POINTS)
        name = f"{context // 1024}k" if context % 1024 == 0 else str(context)
        axis.annotate(
            f"{name} tokens",
            (x, y),
            xytext=(8, lowest - place),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
        )


def _scale(axis, counts: Sequence[int]) -> None:  # type: ignore[no-untyped-def]
    """Both axes logarithmic, so that perfect scaling is a straight line of the same slope everywhere."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_xlim(min(counts) * 0.87, max(counts) * 1.75)
    axis.set_xlabel("workers")
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure) -> None:  # type: ignore[no-untyped-def]
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color="#444444", label=name, **style) for name, style in _STYLES.items()]
    narrow = len(figure.axes) == 1  # one panel has no room for all names side by side
    figure.legend(handles=handles, loc="lower center", ncol=1 if narrow else len(handles), frameon=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args(arguments)
    results = read_results(given.results)
    page = given.readme.read_text(encoding="utf-8")
    wanted = with_block(page, block(results))
    if given.check:
        if page != wanted:
            print(f"{given.readme.name} is not what its results give: run python -m bench.report", file=sys.stderr)
        return int(page != wanted)
    given.readme.write_text(wanted, encoding="utf-8")
    if results:
        write_plot(results, given.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
