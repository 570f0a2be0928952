"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902), as an API server applies them."""

import copy
from typing import Any


class BadPatch(ValueError):
    """A JSON patch that cannot be applied; an API server answers 422."""


def merged(target: Any, patch: Any) -> Any:
    """The target with a merge patch applied: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result: dict[str, Any] = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def json_patched(target: Any, operations: list[dict[str, Any]]) -> Any:
    """The target with add, remove, replace and test operations applied, all or none."""
    result = copy.deepcopy(target)
    for operation in operations:
        _apply(result, operation)
    return result


def _apply(document: Any, operation: dict[str, Any]) -> None:
    *parents, last = [_unescape(part) for part in operation["path"].split("/")[1:]]
    holder = document
    for part in parents:
        holder = _child(holder, part, operation)
    kind = operation["op"]
    if kind == "test":
        if _child(holder, last, operation) != operation["value"]:
            raise BadPatch(f"testing path {operation['path']} value failed")
    elif kind == "remove":
        _child(holder, last, operation)
        del holder[int(last) if isinstance(holder, list) else last]
    elif isinstance(holder, list) and kind == "add":
        holder.insert(len(holder) if last == "-" else int(last), copy.deepcopy(operation["value"]))
    else:
        holder[int(last) if isinstance(holder, list) else last] = copy.deepcopy(operation["value"])


def _child(holder: Any, part: str, operation: dict[str, Any]) -> Any:
    try:
        return holder[int(part) if isinstance(holder, list) else part]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise BadPatch(
            f"{operation['op']} operation does not apply: missing path {operation['path']}"
        ) from error


def _unescape(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
