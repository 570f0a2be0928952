"""A YAML file as plain data that still knows the line of every key, so that an error names file, line, key
and what is allowed.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scanner import RoundTripScanner

from pipelines.core.errors import ManifestError

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


# A YAML file as plain data that still knows the line of every key.


MAX_BYTES = 256 * 1024

MAX_NODES = 20_000

MAX_DEPTH = 100

KEPT_DOCUMENTS = 2048
"""Both files of a thousand models: parsing one takes ten milliseconds, and three parts of the code server ask."""

_BITS = 63

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, and surrogates: a YAML escape may name one by itself."""


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), the file's bytes and its lines."""

    path: Path
    content: bytes
    data: dict[str, Any]
    lines: Mapping[Location, int]

    def line(self, location: Location) -> int:
        """The 1-based line of a location, or of its nearest parent that is in the file."""
        return line_of(self.lines, location)

    def problem(self, location: Location, message: str) -> ManifestProblem:
        """What is wrong at that place of this file."""
        return ManifestProblem(message, file=self.path, line=self.line(location), key=dotted(location))

    def get(self, *location: str | int) -> Any:
        """The value at a location; None where there is none."""
        value: Any = self.data
        for part in location:
            if (
                isinstance(value, dict)
                and part in value
                or isinstance(value, list)
                and isinstance(part, int)
                and part < len(cast(list[Any], value))
            ):
                value = cast(Any, value)[part]
            else:
                return None
        return value


def read_document(path: Path) -> Document:
    """Read a YAML mapping. Raises `ManifestProblem` for anything that is not one.

    What a process has read once is given again for as long as the file holds the same bytes: it is not to be changed.
    """
    return _document(path, _read(path))


@lru_cache(maxsize=KEPT_DOCUMENTS)
def _document(path: Path, content: bytes) -> Document:
    reader = _Reader(path)
    # Made plain before anything is said of it: a few aliases may stand for more text than memory holds.
    data = reader.plain(_parse(path, content), (), 1)
    if not isinstance(data, dict):
        raise ManifestProblem(f"{shown(data)}: expected a mapping of keys to values", file=path, line=1)
    return Document(path, content, cast(dict[str, Any], data), reader.lines)


def _read(path: Path) -> bytes:
    try:
        # A pipe or a device has no end, and a link may lead to one.
        if not S_ISREG(path.stat().st_mode):
            raise ManifestProblem("cannot be read: no file", file=path, line=1)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestProblem(f"cannot be read: {error.strerror}", file=path, line=1) from error
    if len(content) > MAX_BYTES:
        raise ManifestProblem(f"more than {MAX_BYTES} bytes, which is all that is read", file=path, line=1)
    return content


def _parse(path: Path, content: bytes) -> object:
    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    # Both take time that grows with the square of the depth: they must stop by themselves.
    yaml.Scanner = _Scanner
    yaml.max_depth = MAX_DEPTH + 1
    try:
        return yaml.load(io.StringIO(content.decode("utf-8")))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestProblem(f"not UTF-8 text: {error.reason}", file=path, line=line) from error
    except MaxDepthExceededError as error:
        line = error.problem_mark.line + 1
        raise ManifestProblem(f"nested more than {MAX_DEPTH} deep", file=path, line=line) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        reason = str(error.problem or error.context or "not valid YAML").splitlines()[0]
        raise ManifestProblem(f"not valid YAML: {reason}", file=path, line=line) from error
    # ruamel lets the constructors' own errors through: a timestamp of month 13, a bad float, deep nesting.
    except (YAMLError, ValueError, ArithmeticError, TypeError, AttributeError, LookupError,
            NotImplementedError, AssertionError, RecursionError) as error:  # fmt: skip
        raise ManifestProblem(f"not valid YAML: {shown(str(error))}", file=path, line=1) from error


class _Scanner(RoundTripScanner):
    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        """`[` or `{`."""
        if self.flow_level > MAX_DEPTH:
            raise MaxDepthExceededError(None, None, None, self.reader.get_mark())
        super().fetch_flow_collection_start(TokenClass, to_push)


@dataclass
class _Reader:
    path: Path
    lines: dict[Location, int] = field(default_factory=dict[Location, int])
    nodes: int = 0
    open: list[int] = field(default_factory=list[int])

    def plain(self, value: object, location: Location, line: int) -> Any:
        self._count(value, location, line)
        self.lines[location] = line
        if isinstance(value, CommentedMap | CommentedSeq):
            self.open.append(id(value))
            plain = (
                self._mapping(value, location)
                if isinstance(value, CommentedMap)
                else self._sequence(value, location)
            )
            self.open.pop()
            return plain
        return self._scalar(value, location, line)

    def _mapping(self, node: CommentedMap, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.items():
            line = self._line(node, key, self.lines[location])
            if not isinstance(key, str):
                raise self._refuse(location, line, f"{shown(key)}: keys are text; quote it")
            self._require_writable(key, location, line)
            result[str(key)] = self.plain(value, (*location, str(key)), line)
        return result

    def _sequence(self, node: CommentedSeq, location: Location) -> list[Any]:
        parent = self.lines[location]
        items = cast(Sequence[object], node)
        return [self.plain(v, (*location, i), self._line(node, i, parent)) for i, v in enumerate(items)]

    def _scalar(self, value: object, location: Location, line: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        self._require_writable(value, location, line)
        for kind in (str, int, float):
            if isinstance(value, kind):
                return kind(value)
        name = type(value).__name__
        raise self._refuse(
            location, line, f"{shown(str(value))} ({name}): expected text, a number or a boolean"
        )

    def _require_writable(self, value: object, location: Location, line: int) -> None:
        """What no JSON, database or cluster takes must not get as far as there."""
        if isinstance(value, int) and value.bit_length() > _BITS:
            raise self._refuse(
                location, line, f"a number of {value.bit_length()} bits: expected at most {_BITS}"
            )
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise self._refuse(
                location, line, f"{shown(str(value))}: expected text without NUL or half characters"
            )

    def _count(self, value: object, location: Location, line: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._refuse(location, line, f"more than {MAX_NODES} values, aliases included")
        if len(self.open) > MAX_DEPTH:
            raise self._refuse(location[:3], line, f"nested more than {MAX_DEPTH} deep")
        if id(value) in self.open:
            raise self._refuse(location, line, "an alias that contains itself")

    def _line(self, node: CommentedMap | CommentedSeq, key: object, parent: int) -> int:
        entry = (node.lc.data or {}).get(key)
        return int(entry[0]) + 1 if entry else parent

    def _refuse(self, location: Location, line: int, message: str) -> ManifestProblem:
        return ManifestProblem(message, file=self.path, line=line, key=dotted(location))


# The shape of `rollout.yaml`: pydantic's findings turned into places and plain sentences.


T = TypeVar("T")


def parse(kind: type[T], data: object) -> T:
    """Plain data as `kind`, without coercion: `true` is no number and `"5"` no integer.

    Raises pydantic's `ValidationError`.
    """
    # JSON is the strict mode in which lists are tuples and strings are enums.
    return TypeAdapter[T](kind).validate_json(json.dumps(data), strict=True)


def parse_or_none(kind: type[T], data: object) -> T | None:
    """As `parse`, for parts whose errors are reported with the whole."""
    try:
        return parse(kind, data)
    except ValidationError:
        return None


def findings(root: type[BaseModel], data: object, error: ValidationError) -> list[Finding]:
    """One finding per place; alternatives of a union are joined by `or`."""
    merged: dict[Location, list[str]] = {}
    values: dict[Location, object] = {}
    for detail in error.errors(include_url=False, include_context=False):
        place = _place(data, detail)
        message = _message(root, place, detail)
        values[place] = detail["input"]
        if message not in merged.setdefault(place, []):
            merged[place].append(message)
    return [(place, _sentence(values[place], messages)) for place, messages in merged.items()]


def _sentence(value: object, messages: list[str]) -> str:
    text = " or ".join(messages)
    return text if text.startswith(("unknown key", "required key")) else f"{shown(value)}: {text}"


def _message(root: type[BaseModel], place: Location, detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        owner = model_at(root, place[:-1])
        return unknown_key(place[-1], owner.model_fields if owner else ())
    if detail["type"] == "missing":
        return "required key is missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return message if message.startswith("expected") else f"expected {message[:1].lower()}{message[1:]}"


def _place(data: object, detail: ErrorDetails) -> Location:
    """Pydantic's location without the names of union branches, which are not in the file."""
    location = detail["loc"]
    if detail["type"] == "missing":
        return (*_existing(data, location[:-1]), location[-1])
    return _existing(data, location)


def _existing(data: object, location: tuple[str | int, ...]) -> Location:
    for depth, part in enumerate(location):
        try:
            data = cast(Any, data)[part]
        except (LookupError, TypeError):
            return location[:depth]
    return location


def model_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The pydantic model that describes a location; None where it is a plain value."""
    current: type[BaseModel] | None = root
    for part in location:
        if current is None:
            return None
        if isinstance(part, str):
            field = current.model_fields.get(part)
            current = _model_in(field.annotation) if field else None
    return current


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)
