"""The command line: `hogwild generate`, `replay`, `info`."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from hogwild.cli.app import app

    app()


__all__ = ["main"]
