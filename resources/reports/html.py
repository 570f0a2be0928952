"""HTML from values: text is escaped unless it is `Markup`, so that nothing a caller sent becomes a tag."""

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """HTML that was made here, and is put in as it is."""

    __slots__ = ()


def text(value: object) -> Markup:
    """The value as text, escaped; Markup as it is."""
    return value if isinstance(value, Markup) else Markup(escape(str(value), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`<name a="b">children</name>`; an attribute `class_` is `class`, `_` is `-`, None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """The parts after one another, each escaped."""
    return Markup(between.join(text(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> Markup:
    """A table that scrolls sideways on its own; `empty` in words where there is no row."""
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    if not lines:
        return tag("p", empty, class_="quiet")
    header = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    return tag("div", tag("table", header, tag("tbody", *lines)), class_="scroll")


def link(label: object, url: str) -> Markup:
    """A link, if the URL is one of ours to follow: http or https, else the label alone."""
    return tag("a", label, href=url) if url.startswith(("http://", "https://")) else text(label)


def badge(words: object, kind: str) -> Markup:
    """A small coloured label; `kind` is good, bad, wait or plain."""
    return tag("span", words, class_=f"badge {kind}")
