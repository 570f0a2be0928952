"""What a version must show before it gets any traffic."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pipelines.errors import ServingError, VersionFailed, VersionRefused
from pipelines.rollout.evidence import Verdict
from resources.registry.registry import Registry
from resources.signature import Column, ModelSchema

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
