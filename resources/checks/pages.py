"""The pages that Great Expectations, Evidently and we ourselves write: how they look, and how many are
kept.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

STYLED = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy of a page that runs and loads nothing."""

DRAWN = f"{STYLED} blob:; font-src data:; script-src 'unsafe-inline'"
"""The same for a page that its own script draws."""


def meta(policy: str) -> str:
    """Tells a browser the policy in the page itself, wherever it is opened from."""
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


NO_SCRIPT = meta(STYLED)

PAGE_STYLE = """
body{font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#212529;background:#fff;margin:0}
a{color:#0b5cad;text-decoration:none} a:hover{text-decoration:underline}
.container-fluid{padding:0 1.2rem} .row{display:flex;flex-wrap:wrap}
[class*="col-"]{box-sizing:border-box;flex:0 0 100%;max-width:100%}
.col-md-2{display:none}
table{border-collapse:collapse;margin-bottom:1rem} td,th{padding:.35rem .6rem;vertical-align:top;text-align:left}
.table td,.table th,.table-bordered td,.table-bordered th{border:1px solid #dee2e6} th{background:#f5f6f8}
.table-responsive{overflow-x:auto} h1,h2,h3,h4,h5,h6{margin:.9rem 0 .4rem;font-weight:600}
h5{font-size:1.1rem} h6{font-size:.95rem}
.alert{padding:.6rem 1rem;border-radius:4px;margin:1rem 0 .5rem} .alert-secondary{background:#e9ecef}
.badge{display:inline-block;padding:.1em .45em;border-radius:4px;font-size:.85em;font-weight:600}
.badge-secondary{background:#e2e6ea;color:#343a40} .badge-danger{background:#c62828;color:#fff}
.badge-info{background:#0b5cad;color:#fff} .badge-warning{background:#f0ad4e}
.text-success{color:#2e7d32} .text-danger{color:#c62828} .text-warning{color:#b26a00}
.fas{font-style:normal;font-weight:700} .fa-check-circle::before{content:"\\2714"}
.fa-times::before{content:"\\2718"} .fa-exclamation-triangle::before{content:"?"}
.nav,.breadcrumb,ol,ul{padding-left:1rem} .breadcrumb{list-style:none;padding:0}
.nav{list-style:none;padding:0} .collapse{display:block} .d-none{display:none}
.card{border:1px solid #dee2e6;border-radius:4px;padding:.5rem;margin-bottom:.8rem}
.sticky{position:sticky;top:1rem} .sticky-top,.navbar,.btn,[data-toggle="collapse"]{display:none!important}
"""

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
