"""The report of a run: one page for people, every figure of which comes from the run's own files."""

from headstart.report.page import write_report

__all__ = ["write_report"]
