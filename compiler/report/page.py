"""report.html: everything the report knows on one page that needs nothing else; what has no data is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2e.compiler.energy import KINDS
from d2e.compiler.report import plots
from d2e.compiler.report.template import render
from d2e.compiler.report.text import worst_drift
from d2e.compiler.report.words import command


def page(report: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: as in report.json.
        made: the manifest's facts, for the command and the versions; may be empty.
    """
    return render(Path(__file__).resolve().parent / "report.html.j2", {
        "report": report, "fits": fits(report), "drift": worst_drift(report), "kinds": KINDS,
        "charts": {
            "passes": plots.passes(report), "exit": plots.early_exit(report), "layers": plots.layers(report),
            "weights": plots.weights(report), "thresholds": plots.thresholds(report), "raster": plots.raster(report),
        },
        "cores": plots.core_map(report), "graphs": plots.graphs(report),
        "command": command(made), "versions": made.get("versions", {}), "model": made.get("model") or {},
    })


def fits(report: Mapping[str, Any]) -> bool | None:
    """Whether everything that has a limit stays within it; None where nothing is known."""
    fit = report.get("fit")
    return None if not fit else all(row["used"] <= row["limit"] for row in fit.values())
