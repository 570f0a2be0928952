"""Data Docs that open without a network: Great Expectations renders, we replace what it would download."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.vocabulary import Verdict
from resources.checks.expectations import CheckResult
from resources.checks.pages import NO_SCRIPT, PAGE_STYLE, keep_newest, report_folder, stamp
from resources.files import write_whole

_REMOTE = (
    re.compile(r"<link\b[^>]*\bhref=\"https?://[^>]*>"),
    re.compile(r"<script\b[^>]*\bsrc=\"https?://[^>]*>\s*</script>"),
    re.compile(r"<img\b[^>]*\bsrc=\"https?://[^>]*>"),
    re.compile(r"<footer\b.*?</footer>", re.DOTALL),
)

_ELSEWHERE = re.compile(r"\bhref=\"(?:\.\./)+[^\"]*\"")
"""Links to pages of a whole Data Docs site: there is none around this page."""

_COLOUR = {Verdict.PASS: "success", Verdict.FAIL: "danger", Verdict.UNKNOWN: "warning"}

_FILE = re.compile(r"(?P<at>\d{8}T\d{6}Z)\.(?P<failed>\d+)f(?P<unknown>\d+)u(?P<passed>\d+)p\.html")


def write_page(
    record: Any, results: Sequence[CheckResult], docs_dir: Path, *, model: str, at: datetime, keep: int
) -> Path:
    """Render a validation result to `docs_dir/<model>/<time>...html`; list the `keep` newest in `index.html`.

    A window checked again replaces its page.
    """
    folder = report_folder(docs_dir, model)
    for earlier in folder.glob(f"{stamp(at)}.*.html"):
        earlier.unlink()
    count = Counter(result.verdict for result in results)
    name = f"{stamp(at)}.{count[Verdict.FAIL]}f{count[Verdict.UNKNOWN]}u{count[Verdict.PASS]}p.html"
    page = folder / name
    write_whole(page, _offline(_render(record), _summary(results)))
    write_whole(folder / "index.html", _index(model, keep_newest(folder, keep)))
    return page


def _render(record: Any) -> str:
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    for outcome in record.results:
        outcome.result = _harmless(outcome.result)
        outcome.exception_info = _harmless(outcome.exception_info)
        outcome.expectation_config.kwargs.update(_harmless(outcome.expectation_config.kwargs))
    document = ValidationResultsPageRenderer().render(record)
    return DefaultJinjaPageView().render(document)


def _harmless(value: Any) -> Any:
    """The renderer puts names and values that others chose into the page as they are, and chokes on numpy 2 scalars."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(entry) for key, entry in value.items()}
    return [_harmless(entry) for entry in value] if isinstance(value, list | tuple) else value


def _offline(html: str, summary: str) -> str:
    """The page with our verdicts on top and one local style in place of everything it would download."""
    for remote in _REMOTE:
        html = remote.sub("", html)
    html = _ELSEWHERE.sub("", html)
    html = html.replace("<head>", f"<head>{NO_SCRIPT}", 1)
    html = html.replace("</head>", f"<style>{PAGE_STYLE}</style></head>", 1)
    return html.replace("<body>", f"<body>{summary}", 1)


def _summary(results: Sequence[CheckResult]) -> str:
    """Every check with its verdict: also those that could not run, which the library's page cannot show."""
    rows = "".join(
        f"<tr><td class='text-{_COLOUR[r.verdict]}'>{r.verdict}</td><td>{escape(r.name)}</td>"
        f"<td>{r.on_fail.replace('_', ' ')}</td><td>{escape(r.reason)}</td></tr>"
        for r in results
    )
    return (
        "<div class='container-fluid'><p><a href='index.html'>All windows</a></p><table class='table'><thead><tr>"
        f"<th>Verdict</th><th>Check</th><th>If it fails</th><th>Why</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _index(model: str, pages: list[Path]) -> str:
    rows = "".join(_row(match, page) for page in pages if (match := _FILE.fullmatch(page.name)))
    return (
        f"<!DOCTYPE html><html><head><meta charset='utf-8'>{NO_SCRIPT}<title>{escape(model)}: data checks</title>"
        f"<style>{PAGE_STYLE}</style></head><body><div class='container-fluid'>"
        f"<h2>{escape(model)}: data checks</h2><table class='table'><thead><tr><th>Window from (UTC)</th>"
        f"<th>Failed</th><th>Unknown</th><th>Passed</th></tr></thead><tbody>{rows}</tbody></table></div></body></html>"
    )


def _row(match: re.Match[str], page: Path) -> str:
    at = datetime.strptime(match["at"], "%Y%m%dT%H%M%SZ").strftime("%Y-%m-%d %H:%M:%S")
    colour = "danger" if int(match["failed"]) else "warning" if int(match["unknown"]) else "success"
    return (
        f"<tr><td><a href='{page.name}'>{at}</a></td><td class='text-{colour}'>{match['failed']}</td>"
        f"<td>{match['unknown']}</td><td>{match['passed']}</td></tr>"
    )
