"""One thing that is wrong with a manifest, said so that it can be mended without reading code."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from pipelines.errors import ManifestError

Location = tuple[str | int, ...]
"""Where in a document: keys and list positions from the root."""

Finding = tuple[Location, str]
"""A place and what is wrong there, before file and line are known."""

_SHOWN = 80


class ManifestProblem(ManifestError):
    """A `ManifestError` that knows its place: `file`, `line` (1-based) and dotted `key`."""

    def __init__(self, message: str, *, file: Path, line: int, key: str = "") -> None:
        self.file = file
        self.line = line
        self.key = key
        self.problem = message
        place = f"{file}:{line}: {key}: " if key else f"{file}:{line}: "
        super().__init__(place + message)


def dotted(location: Sequence[str | int]) -> str:
    """`("guardrails", 0, "margin")` as `guardrails[0].margin`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def line_of(lines: Mapping[Location, int], location: Location) -> int:
    """The 1-based line of a location, or of its nearest parent that is in the file."""
    for end in range(len(location), -1, -1):
        if location[:end] in lines:
            return lines[location[:end]]
    return 1


def shown(value: object) -> str:
    """A value as it appears in a message, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def unknown_key(key: object, allowed: Iterable[str]) -> str:
    """The message for a key that nobody reads, with the nearest one that is read."""
    names = sorted(allowed)
    near = get_close_matches(str(key), names, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"unknown key;{hint} allowed: {', '.join(names) or 'none'}"
