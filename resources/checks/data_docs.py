"""Data Docs that open without a network: Great Expectations renders the result, the page around it is ours."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.core.vocabulary import Verdict
from resources.checks.expectations import CheckResult
from resources.checks.pages import PACKAGE, STYLED, keep_newest, render, report_folder, stamp
from resources.files import write_whole

_TEMPLATES = Path(__file__).with_name("templates")

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
    write_whole(page, _render(record, results))
    windows = _windows(keep_newest(folder, keep))
    write_whole(
        folder / "index.html", render(PACKAGE, "index.html", policy=STYLED, model=model, windows=windows)
    )
    return page


def _render(record: Any, checks: Sequence[CheckResult]) -> str:
    """The library's sections in a page of ours, which loads nothing.

    On top is every check with its verdict: also those that could not run, which the library cannot show.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    for outcome in record.results:
        outcome.result = _harmless(outcome.result)
        outcome.exception_info = _harmless(outcome.exception_info)
        outcome.expectation_config.kwargs.update(_harmless(outcome.expectation_config.kwargs))
    document = ValidationResultsPageRenderer().render(record)
    view = DefaultJinjaPageView(custom_views_directory=_TEMPLATES)
    html = view.render(document, "window.html", policy=STYLED, checks=checks, colours=_COLOUR)
    return _ELSEWHERE.sub("", html)


def _harmless(value: Any) -> Any:
    """The renderer puts names and values that others chose into the page as they are, and chokes on numpy 2 scalars."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(entry) for key, entry in value.items()}
    return [_harmless(entry) for entry in value] if isinstance(value, list | tuple) else value


class _Window(NamedTuple):
    """A page of the folder, by its name."""

    name: str
    at: datetime
    failed: int
    unknown: int
    passed: int

    @property
    def colour(self) -> str:
        return "danger" if self.failed else "warning" if self.unknown else "success"


def _windows(pages: Iterable[Path]) -> list[_Window]:
    found = (_FILE.fullmatch(page.name) for page in pages)
    return [
        _Window(m[0], datetime.strptime(m[1], "%Y%m%dT%H%M%SZ"), *map(int, m.groups()[1:]))
        for m in found
        if m
    ]
