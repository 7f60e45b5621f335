"""The report: where each per cent of accuracy, each spike and each core went."""

from d2e.compiler.report.report import Report

__all__ = ["Report"]
