"""The program that renders chat templates: one JSON request on standard input, one JSON answer on standard output.

It runs on its own, with nothing of this package imported, and may be killed at any moment. The environment is the one
that authors of templates write for (documented by transformers): trimmed blocks, loop controls, `tojson` without HTML
escapes, `raise_exception`, `strftime_now`, and `{% generation %}` blocks, which change nothing.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Answer the request; errors of the template are answers too."""
    request = json.load(sys.stdin)
    sys.path[:] = request["module_paths"]
    try:
        _limit_memory(request["max_memory_bytes"])
        answer: dict[str, Any] = {"rendered": _render_all(request)}
    except MemoryError:
        answer = {"error": "it used too much memory"}
    except RecursionError:
        answer = {"error": "it calls itself without end"}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
    json.dump(answer, sys.stdout)


def _limit_memory(num_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    except (ImportError, ValueError, OSError):  # no such limit on this system: time and size remain
        return


def _render_all(request: dict[str, Any]) -> list[str]:
    template = _environment().from_string(request["template"])
    rendered = []
    for variables in request["renderings"]:
        pieces, size = [], 0
        for piece in template.generate(**variables):
            size += len(piece)
            if size > request["max_chars"]:
                raise ValueError(f"it wrote more than {request['max_chars']} characters")
            pieces.append(piece)
        rendered.append("".join(pieces))
    return rendered


def _environment() -> Any:
    from datetime import datetime

    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


if __name__ == "__main__":
    main()
