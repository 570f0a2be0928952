"""What a version answers to many requests, and which of them it cannot answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from pipelines.errors import ServingError
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
    score: str
    rows: Sequence[Sequence[Any]]
    tolerated: int
    answers: Answers
    left: int = field(default=BISECTIONS)

    def run(self) -> Answers:
        for start in range(0, len(self.rows), BATCH):
            self._settle(start, min(start + BATCH, len(self.rows)))
        return self.answers

    def _settle(self, start: int, end: int) -> None:
        todo = [(start, end)]
        while todo and self.answers.failed <= self.tolerated:
            start, end = todo.pop()
            error = self._ask(start, end)
            if error is not None and end - start > 1 and self.left > 0:
                middle = (start + end) // 2
                todo += [(middle, end), (start, middle)]
                self.left -= 2
                continue
            self.answers.asked += end - start
            if error is not None:
                self._failed(end - start, error)

    def _ask(self, start: int, end: int) -> str | None:
        """The error, or None when the batch was answered; an answer that is no number is the row's own failure."""
        try:
            scores = self._scores(start, end)
        except ServingError as error:
            return str(error)
        for index, score in enumerate(scores, start):
            if isinstance(score, int | float) and math.isfinite(score):
                self.answers.scores[index] = float(score)
            else:
                self._failed(1, f"output {self.score!r} is {score!r}, expected a finite number")
        return None

    def _scores(self, start: int, end: int) -> Sequence[Any]:
        columns = [column.name for column in self.schema.inputs]
        example = {"dataframe_split": {"columns": columns, "data": self.rows[start:end]}}
        answer = self.predict(v2_request(example, self.schema))
        for tensor in answer.get("outputs", ()):
            if tensor.get("name") == self.score:
                values = tensor.get("data", ())
                if len(values) != end - start:
                    raise ServingError(
                        f"output {self.score!r} has {len(values)} values for {end - start} rows"
                    )
                return values
        raise ServingError(f"the answer has no output {self.score!r}")

    def _failed(self, rows: int, error: str) -> None:
        self.answers.failed += rows
        self.answers.first_error = self.answers.first_error or error


def ask(
    predict: Predict, schema: ModelSchema, rows: Sequence[Sequence[Any]], *, score: str, tolerated: int
) -> Answers:
    """Ask for every row, in requests of at most 500; stops once more than `tolerated` rows have failed.

    `rows` hold the values of `schema.inputs` in order; `score` names the output that is read. Rows that lack the same
    optional columns are asked together: a request can leave a column out, but an integer in it cannot be null.
    """
    order = sorted(range(len(rows)), key=lambda row: _left_out(schema, rows[row]))
    answers = Answers([None] * len(rows))
    for _, alike in groupby(order, key=lambda row: _left_out(schema, rows[row])):
        places = list(alike)
        asking = _Asking(
            predict,
            schema,
            score,
            [rows[place] for place in places],
            tolerated,
            replace(answers, scores=[None] * len(places)),
        )
        found = asking.run()
        answers.asked, answers.failed, answers.first_error = found.asked, found.failed, found.first_error
        for place, value in zip(places, found.scores, strict=True):
            answers.scores[place] = value
    return answers


def _left_out(schema: ModelSchema, row: Sequence[Any]) -> tuple[str, ...]:
    """The optional columns that the row lacks, and numpy has no null for."""
    return tuple(
        column.name
        for column, value in zip(schema.inputs, row, strict=True)
        if value is None and not column.required and not column.has_null
    )
