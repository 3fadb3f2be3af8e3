"""One HTML page about a run: its fits over the photographs, its curves, its numbers and its timings."""

from pipelines.report.build import ReportSummary, build_report
from pipelines.report.sheet import contact_sheet

__all__ = ["ReportSummary", "build_report", "contact_sheet"]
