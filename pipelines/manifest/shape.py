"""The shape of `rollout.yaml`: pydantic's findings turned into places and plain sentences."""

import json
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipelines.manifest.problem import Finding, Location, shown, unknown_key

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
