"""What a version must show before it gets any traffic."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pipelines.core.errors import ServingError, VersionFailed, VersionRefused
from pipelines.core.vocabulary import Verdict
from resources.registry.mlmodel import v2_request
from resources.registry.registry import Registry
from resources.registry.signature import Column, ModelSchema

Probe = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Sends one v2 request to the version through the real predictor and returns its v2 answer."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    """In words: what was found, what is wrong and how to mend it, or why it is not known."""
    pending: bool = False
    """Unknown for lack of data that time brings, and not because something could not be asked."""
    values: Mapping[str, float | int | str | None] = field(
        default_factory=dict[str, float | int | str | None]
    )


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """All steps that were taken; a failed one ends those that need it."""

    steps: tuple[Step, ...]
    facts: Mapping[str, Any]
    """What was learnt: digest, columns in and out, rows of the example, the probe's outputs."""

    @property
    def verdict(self) -> Verdict:
        """Fail where one step failed, else unknown where one is not known, else pass."""
        found = {step.verdict for step in self.steps}
        return next((each for each in (Verdict.FAIL, Verdict.UNKNOWN) if each in found), Verdict.PASS)

    @property
    def pending(self) -> bool:
        """Unknown, and only for lack of data."""
        unknown = [step for step in self.steps if step.verdict is Verdict.UNKNOWN]
        return self.verdict is Verdict.UNKNOWN and all(step.pending for step in unknown)

    @property
    def reason(self) -> str:
        """What is wrong or not known, in one line; empty where all passed."""
        wrong = [step for step in self.steps if step.verdict is self.verdict is not Verdict.PASS]
        return "; ".join(step.detail for step in wrong)


def validate_version(
    registry: Registry, model: str, version: str, *, allow: tuple[str, ...] = (), probe: Probe | None = None
) -> ValidationReport:
    """Digest, policy, signature, input example, then the example's answer through `probe`.

    Nothing of the artefact is loaded here; without `probe` the version is judged on paper alone.
    A probe that could not be asked is unknown. Raises `RegistryError` where the registry cannot be asked: that says
    nothing about the version either.
    """
    steps: list[Step] = []
    facts: dict[str, Any] = {"digest": registry.artefact(model, version).digest}
    steps.append(Step(name="artefact", verdict=Verdict.PASS, detail=f"sha256 {facts['digest'][:12]}"))
    steps.append(_policy(registry.artefact_policy(model, version, allow)))
    schema = _step(steps, "signature", lambda: registry.signature(model, version), _columns)
    if schema is not None:
        facts |= {"inputs": [c.name for c in schema.inputs], "outputs": [c.name for c in schema.outputs]}
        request = _step(steps, "input example", lambda: registry.input_example(model, version), _rows)
        # The probe loads the artefact: never before the policy has passed.
        if request is not None and probe is not None and all(step.verdict is Verdict.PASS for step in steps):
            answer = _step(steps, "probe", lambda: answer_of(probe, request, schema), _shape)
            facts["probe"] = answer
    return ValidationReport(steps=tuple(steps), facts=facts)


def _policy(refused: tuple[str, ...]) -> Step:
    detail = "; ".join(refused) or "loading the artefact runs no code of its author"
    return Step(name="policy", verdict=Verdict.FAIL if refused else Verdict.PASS, detail=detail)


def _step(
    steps: list[Step], name: str, take: Callable[[], Any], describe: Callable[[Any], str]
) -> Any | None:
    try:
        result = take()
    except (VersionRefused, VersionFailed) as error:
        steps.append(Step(name=name, verdict=Verdict.FAIL, detail=str(error)))
        return None
    except ServingError as error:
        steps.append(Step(name=name, verdict=Verdict.UNKNOWN, detail=f"could not be asked: {error}"))
        return None
    steps.append(Step(name=name, verdict=Verdict.PASS, detail=describe(result)))
    return result


def answer_of(probe: Probe, request: dict[str, Any], schema: ModelSchema) -> Mapping[str, Any]:
    answer = probe(request)
    rows = request["inputs"][0]["shape"][0]
    outputs = {tensor.get("name"): tensor for tensor in answer.get("outputs", ())}
    for column in schema.outputs:
        tensor = outputs.get(column.name)
        if tensor is None:
            named = ", ".join(map(str, outputs)) or "none"
            raise VersionRefused(f"the predictor's answer has no output {column.name!r}; it has {named}")
        wrong = _unlike(column, tensor, rows)
        if wrong is not None:
            raise VersionRefused(f"output {column.name!r} {wrong}")
    return answer


def _unlike(column: Column, tensor: Mapping[str, Any], rows: int) -> str | None:
    """How an answer's tensor differs from what the signature says, in words; None where it does not."""
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list):
        return "has no shape"
    expected = column.dimensions.replace("n", str(rows), 1)
    if shape[:1] != [rows] or not column.fits(cast(list[int], shape)):
        return f"has shape {shape}, expected {expected}"
    if datatype not in column.kind.accepts:
        return f"has datatype {datatype}, but the signature says {column.type}: expected {column.datatype}"
    return None


def _columns(schema: ModelSchema) -> str:
    return f"{len(schema.inputs)} columns in, {len(schema.outputs)} out"


def _rows(request: Mapping[str, Any]) -> str:
    return f"{request['inputs'][0]['shape'][0]} rows"


def _shape(answer: Mapping[str, Any]) -> str:
    return "; ".join(f"{tensor['name']} {list(tensor['shape'])}" for tensor in answer["outputs"])


# What a version answers to many requests, and which of them it cannot answer.


Predict = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Sends one v2 request to the version through the real predictor and returns its v2 answer."""

BATCH = 500
"""Rows in one request."""

BISECTIONS = 256
"""Extra requests spent on telling failing rows from their neighbours; after that a failing batch fails whole."""


@dataclass
class BatchAnswers:
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
    answers: BatchAnswers
    left: int = field(default=BISECTIONS)
    batch: int = field(default=BATCH)

    def run(self) -> BatchAnswers:
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
) -> BatchAnswers:
    """Ask for every row, in requests of at most 500; stops once more than `tolerated` rows have failed.

    `rows` hold values by column, with the types of `schema.inputs`; a column that a row does not have is not sent.
    `score` names the output that is read; without it any prediction is an answer. Raises ServingError where the
    version could not be asked for a single row: that is no failure of the version.
    """
    return _Asking(predict, schema, score, rows, tolerated, BatchAnswers([None] * len(rows))).run()
