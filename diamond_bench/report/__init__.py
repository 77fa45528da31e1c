"""The report of a study: figures, summary and comparison tables, and one page that shows them all."""

from diamond_bench.report.write import write_report

__all__ = ["write_report"]
