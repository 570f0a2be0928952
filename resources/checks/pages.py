"""The pages that Great Expectations, Evidently and we ourselves write: how they look, and how many are
kept.
"""

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

PACKAGE = "resources.checks"

STYLED = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy of a page that runs and loads nothing."""

DRAWN = f"{STYLED} blob:; font-src data:; script-src 'unsafe-inline'"
"""The same for a page that its own script draws."""


@cache
def _templates(package: str) -> Environment:
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(package: str, template: str, **values: object) -> str:
    """A page from the package's folder `templates`: every value is text in it, whoever wrote it, and never a tag.

    Raises jinja2.UndefinedError for a value that is not given.
    """
    return _templates(package).get_template(template).render(values)


def meta(policy: str) -> str:
    """Tells a browser the policy in the page itself, wherever it is opened from."""
    return render(PACKAGE, "policy.html", policy=policy)


# A folder of HTML reports: written whole, named by time, bounded in number.


_SAFE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def report_folder(root: Path, *names: str) -> Path:
    """`root/name/name`, created. Names are a model's or a comparison's, never text from events.

    Raises ValueError for a name that is not lower-case letters, digits, `-` and `_`.
    """
    for name in names:
        if not _SAFE.fullmatch(name):
            raise ValueError(f"{name!r} is not usable as a folder name, must match {_SAFE.pattern}")
    folder = root.joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stamp(at: datetime) -> str:
    """A file name that sorts by time: `20260101T000000Z`."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def keep_newest(folder: Path, keep: int) -> list[Path]:
    """Delete all but the `keep` newest reports (by name); return those that stay, newest first."""
    pages = sorted(folder.glob("[0-9]*.html"), reverse=True)
    for page in pages[keep:]:
        page.unlink(missing_ok=True)
    return pages[:keep]
