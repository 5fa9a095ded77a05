"""A report as a table for people, and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hogwild.bench.results import DECODE_DERIVED, DecodeResult, Report

CSV_COLUMNS = (
    "workers",
    "context",
    "distinct_tokens",
    "passes",
    *DECODE_DERIVED,
    "speedup",
    "forward_ms",
    "weight_bytes",
    "kv_read_bytes",
    "kv_written_bytes",
    "bandwidth",
    "shared_kv_bytes",
    "separate_kv_bytes",
    "prefill_tokens_per_second",
)


def to_csv(report: Report) -> str:
    """One line for each case; empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    prefill = {entry.context: entry.tokens_per_second for entry in report.prefill}
    for entry in report.decode:
        row = {name: getattr(entry, name) for name in CSV_COLUMNS if hasattr(entry, name)}
        row |= {"passes": len(entry.step_ms), "speedup": report.speedup(entry)}
        row |= {"weight_bytes": entry.bytes.weights, "kv_read_bytes": entry.bytes.kv_read}
        row |= {"kv_written_bytes": entry.bytes.kv_written}
        writer.writerow({**row, "prefill_tokens_per_second": prefill.get(entry.context)})
    return text.getvalue()


def to_json(report: Report) -> str:
    """The versioned form; see docs/benchmark.md."""
    return json.dumps(report.to_dict(), indent=1) + "\n"


def to_tables(report: Report) -> list[RenderableType]:
    """What was measured on what, prefill, decode."""
    tables: list[RenderableType] = [_facts(report)]
    if report.prefill:
        tables.append(_prefill(report))
    if report.decode:
        cases = sorted(report.decode, key=lambda entry: (entry.context, entry.workers))
        tables += [_speed(report, cases), _bytes(cases)]
    return tables


def _facts(report: Report) -> Text:
    model, machine, settings = report.model, report.machine, report.settings
    bandwidth = "not measured" if report.copy_bandwidth is None else f"{report.copy_bandwidth / 1e9:.1f} GB/s"
    lines = [
        f"{model['name']}: {model['backend']} backend, {model['dtype']} on {model['device']}, "
        f"attention: {model['attention']}{_stored(model)}",
        f"machine: {_hardware(machine)}; a large copy moves {bandwidth}",
        f"layout {settings['layout']}, {_history(settings)}, {settings['passes']} passes each, seed {settings['seed']}",
    ]
    if report.batch:
        lines.append(f"independent batch: {report.batch}")
    if report.problem:
        lines.append(f"not complete: {report.problem}")
    return Text("\n".join(lines))


def _stored(model: Mapping[str, Any]) -> str:
    kv_dtype = model.get("kv_dtype", "auto")  # which old results do not have
    return "" if kv_dtype == "auto" else f", K/V in {kv_dtype}"


def _hardware(machine: Mapping[str, Any]) -> str:
    gpu = machine.get("gpu")
    if gpu:
        return str(gpu.get("device_name", gpu) if isinstance(gpu, Mapping) else gpu)
    return f"{machine['processor']}, {machine['cores']} cores"


def _history(settings: Mapping[str, Any]) -> str:
    step = settings["step_tokens"]
    return f"published steps of {step} tokens" if step else "one long prompt"


def _prefill(report: Report) -> Table:
    table = _table("prefill", "context", "seconds", "tokens/s")
    for entry in report.prefill:
        table.add_row(f"{entry.context:,}", f"{entry.seconds:.2f}", f"{entry.tokens_per_second:,.0f}")
    return table


def _speed(report: Report, cases: Sequence[DecodeResult]) -> Table:
    columns = ("context", "workers", "ms p50", "ms p99", "tokens/s", "each", "speed-up", "vs batch")
    table = _table("decode", *columns)
    for entry in cases:
        table.add_row(
            *_case(entry),
            f"{entry.step_ms_p50:.2f}",
            f"{entry.step_ms_p99:.2f}",
            f"{entry.tokens_per_second:,.1f}",
            f"{entry.tokens_per_second_per_worker:,.1f}",
            _or_dash(report.speedup(entry), "{:.2f}×"),
            _or_dash(entry.overhead, "{:.2f}×"),
        )
    return table


def _bytes(cases: Sequence[DecodeResult]) -> Table:
    columns = ("context", "workers", "must move", "floor ms", "reached", "K/V shared", "if separate")
    table = _table("floor and memory", *columns)
    for entry in cases:
        table.add_row(
            *_case(entry),
            _bytes_text(entry.bytes.total),
            f"{entry.floor_ms:.2f}",
            f"{100 * entry.floor_reached:.0f} %",
            _bytes_text(entry.shared_kv_bytes),
            _bytes_text(entry.separate_kv_bytes),
        )
    return table


def _case(entry: DecodeResult) -> tuple[str, str]:
    return f"{entry.context:,}", str(entry.workers)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _bytes_text(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.title_style, table.title_justify = "bold", "left"
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
