"""Names in SQL: quoted, and only after they passed a check. Values never go this way: they are parameters."""

import re
from collections.abc import Mapping
from typing import Any

from pipelines.errors import LakeError
from resources.signature import LONGEST_NAME


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier. Raises `LakeError` for one that is empty, too long or unprintable."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise LakeError(f"name {name!r}: must be 1 to {LONGEST_NAME} printable characters")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a quoted SQL string, for statements that take no parameters (ATTACH, CREATE SECRET)."""
    if "\0" in text:
        raise LakeError("a text for the lake contains a NUL byte")
    return "'" + text.replace("'", "''") + "'"


def table(model: str, name: str) -> str:
    """The fully qualified name of one of a model's tables."""
    return f"lake.{identifier(model)}.{identifier(name)}"


def mentioned(statement: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `parameters` that `statement` uses: DuckDB refuses any other."""
    names = set(re.findall(r"\$([a-z_]\w*)", statement))
    return {name: value for name, value in parameters.items() if name in names}
