"""The report as data (report.json, schema 1); text, page and tables are made of it when they are asked for.

A number without data is absent, never 0. Accuracies are shares 0..1; spikes and synops are means per sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from d2e.compiler.report import text
from d2e.compiler.report.words import table_csv

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        data: as in report.json; docs/report.md lists its keys.
    """

    data: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        """``data.get``."""
        return self.data.get(key, default)

    def json(self) -> str:
        """The bytes of report.json."""
        return json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"

    def layers_csv(self) -> str:
        """The layers as a table, one row each."""
        return table_csv(list(self.data["layers"]))

    def html(self, made: Mapping[str, Any] | None = None) -> str:
        """The report as one self-contained page.

        Args:
            made: the manifest's facts: model, options, versions.
        """
        from d2e.compiler.report.page import page

        return page(self.data, made or {})

    def text(self, path: str | None = None) -> str:
        """The last screen: at most 15 lines."""
        return text.text(self.data, path)
