"""What a version answers to many requests, and which of them it cannot answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pipelines.errors import ServingError, VersionFailed
from resources.registry.input_example import v2_request
from resources.signature import ModelSchema

Predict = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Sends one v2 request to the version through the real predictor and returns its v2 answer."""
BATCH = 500
"""Rows in one request."""
BISECTIONS = 256
"""Extra requests spent on telling failing rows from their neighbours; after that a failing batch fails whole."""


@dataclass
class Answers:
    """The version's answers to `rows`, in order; None where it failed or was not asked any more."""

    scores: list[float | None]
    asked: int = 0
    """Rows known to be answered or failed."""
    failed: int = 0
    first_error: str = ""


@dataclass
class _Asking:
    """One round of questions. A failing batch is halved until the rows that fail are alone."""

    predict: Predict
    schema: ModelSchema
    score: str | None
    rows: Sequence[Mapping[str, Any]]
    tolerated: int
    answers: Answers
    left: int = field(default=BISECTIONS)
    batch: int = field(default=BATCH)

    def run(self) -> Answers:
        alike: dict[frozenset[tuple[str, tuple[int, ...]]], list[int]] = {}
        for index, row in enumerate(self.rows):
            alike.setdefault(_form(row), []).append(index)
        todo = list(alike.values())
        while todo and self.answers.failed <= self.tolerated:
            todo += self._settle(todo.pop())
        return self.answers

    def _settle(self, batch: list[int]) -> list[list[int]]:
        """Ask for these rows; returns those that have to be asked for again, in smaller batches."""
        if len(batch) > self.batch:
            return [batch[self.batch :], batch[: self.batch]]
        try:
            error = self._ask(batch)
        except ServingError:
            if len(batch) == 1:
                raise
            # Nothing of the version's own: it may be too much at once for a timeout or a limit on the way.
            self.batch = max(1, len(batch) // 8)
            return [batch]
        if error is not None and len(batch) > 1 and self.left > 0:
            self.left -= 2
            middle = len(batch) // 2
            return [batch[middle:], batch[:middle]]
        self.answers.asked += len(batch)
        if error is not None:
            self._failed(len(batch), error)
        return []

    def _ask(self, batch: list[int]) -> str | None:
        """The error, or None when the batch was answered; an answer that is no number is the row's own failure."""
        try:
            scores = self._scores(batch)
        except VersionFailed as error:
            return str(error)
        for index, score in zip(batch, scores, strict=True):
            if isinstance(score, int | float) and math.isfinite(score):
                self.answers.scores[index] = float(score)
            elif self.score is not None:
                self._failed(1, f"output {self.score!r} is {_kind(score)}, expected a finite number")
        return None

    def _scores(self, batch: list[int]) -> Sequence[Any]:
        """One for each row; None for each where no output is read."""
        answer = self.predict(self._request(batch))
        if self.score is None:
            return [None] * len(batch)
        for tensor in answer.get("outputs", ()):
            if tensor.get("name") == self.score:
                values = tensor.get("data", ())
                if not isinstance(values, list):
                    raise VersionFailed(
                        f"output {self.score!r} has {_kind(values)} as its data, expected a list of values"
                    )
                if len(values) != len(batch):
                    raise VersionFailed(
                        f"output {self.score!r} has {len(values)} values for {len(batch)} rows"
                    )
                return values
        raise VersionFailed(f"the answer has no output {self.score!r}")

    def _request(self, batch: list[int]) -> dict[str, Any]:
        """With the columns that these rows were sent with, all of them the same."""
        sent = tuple(column for column in self.schema.inputs if column.name in self.rows[batch[0]])
        data = [[self.rows[index][column.name] for column in sent] for index in batch]
        example = {"dataframe_split": {"columns": [column.name for column in sent], "data": data}}
        return v2_request(example, replace(self.schema, inputs=sent))

    def _failed(self, rows: int, error: str) -> None:
        self.answers.failed += rows
        self.answers.first_error = self.answers.first_error or error


def _kind(value: Any) -> str:
    """What it is, and not which: it may be what a caller sent."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null" if value is None else "not finite"
    return f"a value of type {type(value).__name__}"


def _form(row: Mapping[str, Any]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """What the rows of one request have in common: their columns, and the lengths of their lists, in each dimension."""
    return frozenset((name, _lengths(value)) for name, value in row.items())


def _lengths(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    values = cast(list[Any], value)
    return (len(values), *(_lengths(values[0]) if values else ()))


def ask(
    predict: Predict,
    schema: ModelSchema,
    rows: Sequence[Mapping[str, Any]],
    *,
    tolerated: int,
    score: str | None = None,
) -> Answers:
    """Ask for every row, in requests of at most 500; stops once more than `tolerated` rows have failed.

    `rows` hold values by column, with the types of `schema.inputs`; a column that a row does not have is not sent.
    `score` names the output that is read; without it any prediction is an answer. Raises ServingError where the
    version could not be asked for a single row: that is no failure of the version.
    """
    return _Asking(predict, schema, score, rows, tolerated, Answers([None] * len(rows))).run()
