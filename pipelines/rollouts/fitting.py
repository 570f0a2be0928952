"""Do the columns that a manifest names exist in the versions that it is to compare?

A column that is mistyped, or of a type that the manifest's use of it does not fit, would leave every look or window
unknown, until a healthy version is taken back. That is a mistake of the manifest, and no verdict on the version.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches

from pipelines.core.errors import ManifestError, VersionRefused
from pipelines.core.manifest.document import Finding, Location, shown
from pipelines.core.manifest.load import Model
from pipelines.core.manifest.measurement_rules import ANSWERED
from pipelines.core.manifest.model import Metric
from pipelines.experiments.history import metrics_of
from pipelines.rollouts.comparison import score_output
from resources.checks.columns import incomparable
from resources.checks.expectations import needs
from resources.lake.experiment import meant
from resources.lake.schema import Fields
from resources.registry.registry import Registry
from resources.registry.signature import Column, ColumnKind, ModelSchema

_LISTED = 20
"""Columns that a message names."""


@dataclass(frozen=True)
class _Version:
    """What one version takes and gives."""

    version: str
    schema: ModelSchema

    @property
    def columns(self) -> dict[str, Column]:
        """By `features.<name>` and `outputs.<name>`."""
        sides = (("features", self.schema.inputs), ("outputs", self.schema.outputs))
        return {f"{side}.{column.name}": column for side, columns in sides for column in columns}

    @property
    def held(self) -> tuple[Fields, Fields]:
        """As the lake would hold this version alone."""
        inputs, outputs = (
            {column.name: column.sql_type for column in side}
            for side in (self.schema.inputs, self.schema.outputs)
        )
        return inputs, outputs

    def lacks(self, written: str) -> str:
        """That there is no such column, with the nearest and those that there are."""
        plain = {full.partition(".")[2]: full for full in self.columns}
        name = written.removeprefix("features.").removeprefix("outputs.")
        near = get_close_matches(name, plain, n=1, cutoff=0.5)
        hint = f" did you mean {plain[near[0]]}?" if near else ""
        names = [*self.columns]
        more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"version {self.version} has no such column;{hint} it has {', '.join(names[:_LISTED])}{more}"


def require_fit(
    registry: Registry,
    model: Model,
    version: str,
    champion: str | None,
    *,
    held: tuple[Fields, Fields] = ({}, {}),
) -> None:
    """Raise ManifestError with every column of the manifest that the challenger or the champion lacks, or has as
    a type that cannot be used as the manifest wants: file, line, key, value, and what the signature has.

    `held` is what the lake holds of all versions so far, where a metric's name must have one meaning as well. Names are
    found without regard to case. A champion whose signature is gone is left out. Raises RegistryError, and
    VersionRefused where the challenger has no signature.
    """
    versions = [_Version(version, registry.signature(model.name, version))]
    if champion is not None and champion != version:
        with suppress(VersionRefused):
            versions.append(_Version(champion, registry.signature(model.name, champion)))
    problems = [str(model.problem(place, message)) for place, message in _findings(model, versions, held)]
    if problems:
        told = "\n  ".join([f"{model.name}: rollout.yaml does not fit version {version}", *problems])
        raise ManifestError(told)


def _findings(model: Model, versions: list[_Version], held: tuple[Fields, Fields]) -> Iterator[Finding]:
    manifest = model.rollout
    for index, metric in enumerate(metrics_of(manifest)):
        place: Location = ("guardrails", index - 1) if index else ("experiment", "primary")
        yield from _of_metric(metric, place, versions, held)
    for index, name in enumerate(manifest.experiment.slices):
        for version in versions:
            yield from _of_slice(("experiment", "slices", index), name, version)
    for index, check in enumerate(manifest.data_checks.checks):
        place = ("data_checks", "checks", index, "column")
        for version in versions:
            kind = _kind(version, check.column)
            needed = needs(check, kind) if kind else None
            yield from _named(place, check.column, version, kind, needed)
    for index, column in enumerate(manifest.drift.columns):
        for version in versions:
            kind = _kind(version, column)
            yield from _named(
                ("drift", "columns", index), column, version, kind, incomparable(kind) if kind else None
            )
    yield from _of_label(manifest.validation.label, versions)


def _of_metric(
    metric: Metric, place: Location, versions: list[_Version], held: tuple[Fields, Fields]
) -> Iterator[Finding]:
    for key in ("source", "denominator", "covariate"):
        written = getattr(metric, key)
        prefix, _, name = (written or "").partition(".")
        if prefix != "predictions" or (name in ANSWERED and key != "covariate"):
            continue
        problems = [_unusable(name, version, covariate=key == "covariate") for version in versions]
        if not any(problems):
            problems = [_ambiguous(name, held, "the lake, from all versions so far")]
        for problem in problems:
            if problem is not None:
                yield (*place, key), f"{shown(written)}: {problem}"


def _unusable(name: str, version: _Version, *, covariate: bool) -> str | None:
    """Why a metric cannot use `predictions.<name>` of this version."""
    columns = _in_full(name, version.held)
    if not columns:
        return version.lacks(name)
    if len(columns) > 1:
        return _ambiguous(name, version.held, f"version {version.version}")
    kind = _kind(version, columns[0])
    if kind is not None and not kind.counts:
        return f"holds {kind} in version {version.version}; a metric needs numbers"
    if covariate and not columns[0].startswith("features."):
        return f"is an output of version {version.version}; a covariate must be an input, known before the answer"
    return None


def _ambiguous(name: str, held: tuple[Fields, Fields], of: str) -> str | None:
    """What `predictions.<name>` can mean, if that is more than one column."""
    columns = _in_full(name, held)
    if len(columns) < 2:
        return None
    return f"is an input and an output of {of}; expected {' or '.join(f'predictions.{c}' for c in columns)}"


def _in_full(name: str, held: tuple[Fields, Fields]) -> list[str]:
    return [f"{struct}.{field}" for struct, field, _ in meant(name, held)]


def _named(
    place: Location, written: str, version: _Version, kind: ColumnKind | None, problem: str | None
) -> Iterator[Finding]:
    if kind is None:
        yield place, f"{shown(written)}: {version.lacks(written)}"
    elif problem is not None:
        yield place, f"{shown(written)}: holds {kind} in version {version.version}: {problem}"


def _of_slice(place: Location, written: str, version: _Version) -> Iterator[Finding]:
    full = f"features.{written.removeprefix('features.')}"
    kind = _kind(version, full)
    if kind is None and _kind(version, full.replace("features.", "outputs.", 1)) is not None:
        yield (
            place,
            f"{shown(written)}: is an output of version {version.version}; a slice must be an input, known before the answer",
        )
        return
    plain = kind not in (ColumnKind.LISTS, ColumnKind.OTHERS)
    yield from _named(place, written, version, kind, None if plain else "a slice needs one plain value")


def _of_label(label: str | None, versions: list[_Version]) -> Iterator[Finding]:
    if label is None or score_output(label, *(version.schema for version in versions)) is not None:
        return
    names = " and ".join(version.version for version in versions)
    yield (
        ("validation", "label"),
        f"{shown(label)}: no output of version {names} predicts it; expected one numeric output, or one named"
        f" {label}, {label}_probability or {label}_score",
    )


def _kind(version: _Version, full: str) -> ColumnKind | None:
    """Of the column `features.<name>` or `outputs.<name>`; None where there is none."""
    wanted = full.lower()
    column = next((column for name, column in version.columns.items() if name.lower() == wanted), None)
    return None if column is None else column.holds
