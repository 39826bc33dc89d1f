"""An evaluation for people and for programs: one HTML file, a comment on a pull request, a file of metrics."""

from __future__ import annotations

from headrace.pipeline.evaluate.report.html import render_html
from headrace.pipeline.evaluate.report.markdown import render_markdown
from headrace.pipeline.evaluate.report.metrics_file import metrics_json

__all__ = ["metrics_json", "render_html", "render_markdown"]
