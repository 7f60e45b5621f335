"""Pages from templates: one style for all, everything escaped, nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d2e.compiler.report import charts
from d2e.compiler.report.words import engineering, number, percent, signed

_FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent, "number": number, "signed": signed, "engineering": engineering,
}


def render(template: Path, facts: Mapping[str, Any], **more: Callable[..., str]) -> str:
    """A page.

    Args:
        template: a Jinja file; it gets the facts and ``style``.
        facts: by name.
        more: filters besides those of the report's words.
    """
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {**_FILTERS, **more}
    style = (Path(__file__).resolve().parent / "style.css.j2").read_text(encoding="utf-8") + charts.STYLE
    return page.from_string(template.read_text(encoding="utf-8")).render(**facts, style=style)
