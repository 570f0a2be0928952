"""The contract of a serving backend.

Every call is idempotent and names the version that it is about, so that repeating it after a crash at any
point, or from a second controller, ends in the same place. A call returns only when the change is in force:
traffic follows the returned status.
"""

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Protocol, cast

import httpx

from pipelines.core.errors import RampgateError, ServingError, VersionFailed

NOTHING = ""
"""In place of a version, where no version is served."""

LEASE = timedelta(seconds=10)
"""How long a share stays that nobody says he watches."""

UNIT_WINDOW = timedelta(minutes=5)
"""In this long a unit's first answer counts where units are compared, and what it asks again does not."""

UNITS_REMEMBERED = 150_000
"""A gateway knows so many units of its rollouts, and so many of the last minutes, in some 750 bytes each. Of more, who asked
longest ago is forgotten first, and is then new again."""


@dataclass(frozen=True, kw_only=True)
class ModelArtefact:
    """A registered model version, pinned by content."""

    model: str
    version: str
    uri: str
    """Where the artefact lies: a local path, s3://, gs://, pvc://, https://."""
    digest: str
    """sha256 over the artefact's files (see `resources.registry`), verified before it is loaded."""


@dataclass(frozen=True, kw_only=True)
class RevisionStatus:
    """One running revision of a model's InferenceService."""

    name: str
    version: str
    percent: float
    """Share of weighted traffic it is given, 0 to 100."""
    ready: bool
    message: str = ""
    """Why it is not ready, in the serving system's own words."""


@dataclass(frozen=True, kw_only=True)
class Lapse:
    """A share, or a mirror, that the serving side has taken away by itself: nobody said that he watches it."""

    version: str
    at: datetime
    percent: float
    """What it had, 0 to 100."""
    mirror: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """What is in force for one InferenceService."""

    service: str
    stable: RevisionStatus | None
    canary: RevisionStatus | None
    salt: str = ""
    """Assignment is hash(salt, unit); a new salt for each rollout."""
    mirror: bool = False
    """Whether a copy of live traffic goes to the canary (shadow step)."""
    lapse: Lapse | None = None
    """Why the canary has no share and no mirror any more, until a command sets its share anew."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Cumulative counts of what requests to one revision came to, what the stable side answered in its place included."""

    requests: int
    errors: int
    """Requests that the revision did not answer with a 2xx, and a second attempt did; and those that only it was asked
    for: no second attempt could be made, or the caller had gone."""
    faults: int = 0
    """Requests whose failure no caller can be blamed for: a 5xx, or no answer that somebody waited for."""
    request_faults: int = 0
    """Requests that nobody answered with a 2xx, the stable side neither: they say nothing of the revision."""
    over_slo: Mapping[int, int] = field(default_factory=dict[int, int])
    """Answers slower than each threshold: milliseconds -> count."""


def plus(one: Answers, other: Answers) -> Answers:
    """Both together."""
    return _each(one, other, operator.add)


def _each(one: Answers, other: Answers, combine: Callable[[int, int], int]) -> Answers:
    return Answers(
        requests=combine(one.requests, other.requests),
        errors=combine(one.errors, other.errors),
        faults=combine(one.faults, other.faults),
        request_faults=combine(one.request_faults, other.request_faults),
        over_slo={
            ms: combine(n, other.over_slo[ms]) for ms, n in one.over_slo.items() if ms in other.over_slo
        },
    )


@dataclass(frozen=True, kw_only=True)
class RevisionCounters(Answers):
    """One revision's answers."""

    revision: str
    version: str
    stand_in: str = ""
    """The revision that answers in its place; beside another one it is counted anew, from zero."""
    first: Answers | None = None
    """Of these, the first answer of each unit in `UNIT_WINDOW`, and all answers without a unit; None where the serving
    side cannot tell."""
    distinct: Answers | None = None
    """Of these, the first answer of each unit in this rollout, whatever its share was, and all answers without a unit; None
    as above. Nothing beside no canary's share."""


def together(one: RevisionCounters, other: RevisionCounters) -> RevisionCounters:
    """The answers of both, under the second's name."""
    return _combined(other, one, operator.add)


def since(now: RevisionCounters, before: RevisionCounters) -> RevisionCounters:
    """What came since `before`; counters that fell say nothing."""
    return _combined(now, before, _grown)


def _grown(now: int, before: int) -> int:
    return max(0, now - before)


def _combined(
    one: RevisionCounters, other: RevisionCounters, combine: Callable[[int, int], int]
) -> RevisionCounters:
    def known(mine: Answers | None, theirs: Answers | None) -> Answers | None:
        return None if mine is None or theirs is None else _each(mine, theirs, combine)

    return RevisionCounters(
        revision=one.revision,
        version=one.version,
        stand_in=one.stand_in,
        first=known(one.first, other.first),
        distinct=known(one.distinct, other.distinct),
        **vars(_each(one, other, combine)),
    )


@dataclass(frozen=True, kw_only=True)
class GatewayCounters:
    """What one start of one gateway has counted: cumulative, from zero. When it starts again it is another one."""

    instance: str
    """A name that every start of every gateway has for itself."""
    at: datetime
    """When it was asked, by the clock of who asks."""
    started: datetime | None = None
    """It began no earlier than this, by the same clock, and what it counted before this is zero; None where it does not say."""
    revisions: tuple[RevisionCounters, ...]


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the gateways of one service have counted. Each counts, comes and goes by itself, and knows by itself which units it
    has answered."""

    at: datetime
    """When they were asked."""
    gateways: tuple[GatewayCounters, ...]
    """Those that answered, one at least."""
    unread: tuple[str, ...] = ()
    """Why the others did not. They have counted all the same."""

    @property
    def epoch(self) -> str:
        """A name of just these starts of these gateways."""
        return epoch_of(self.gateways)

    @property
    def revisions(self) -> tuple[RevisionCounters, ...]:
        """The sums over the gateways that answered."""
        sums: dict[tuple[str, str], RevisionCounters] = {}
        for each in (each for gateway in self.gateways for each in gateway.revisions):
            key = (each.revision, each.stand_in)
            sums[key] = together(sums[key], each) if key in sums else each
        return tuple(sums.values())


def epoch_of(gateways: Iterable[GatewayCounters]) -> str:
    """A name of just these starts of these gateways: its own where there is one."""
    names = sorted(each.instance for each in gateways)
    return names[0] if len(names) == 1 else hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]


def counted_other_errors(revisions: Iterable[Mapping[str, Any]]) -> bool:
    """Whether these counters, as JSON, are of a release that did not tell a request's fault from a revision's error."""
    return any("request_faults" not in revision for revision in revisions)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend can do for a service; manifests that need more are refused with the reason."""

    sticky: bool
    """Assignment follows the unit id."""
    mirror: bool
    """A copy of live traffic can be sent to the canary."""
    percent_step: float = 1.0
    """The finest share that can be set, in percent."""
    lease: bool = False
    """A share that nobody watches is taken away by the serving side itself."""


class ServingBackend(Protocol):
    """Where a model is served. Errors are `ServingError` with the system's own message.

    `VersionFailed`, which is one of them, is about the version alone. Every other says that something could not be
    done or asked, and nothing about the version.
    """

    def capabilities(self, service: str) -> Capabilities:
        """What can be asked for."""
        ...

    def status(self, service: str) -> ServiceStatus:
        """What is in force now; a service that does not exist has neither stable nor canary."""
        ...

    def deploy_canary(
        self, service: str, artefact: ModelArtefact, *, percent: float, salt: str, mirror: bool = False
    ) -> ServiceStatus:
        """Start the version beside the stable one, wait until it is ready, then give it `percent`.

        `percent` 0 leaves it reachable through `predict` alone (smoke test, shadow).
        Where nothing is stable yet, the version is started and `promote` makes it the stable one.
        A share, or a mirror, is leased: see `renew`.
        """
        ...

    def set_canary_percent(
        self,
        service: str,
        version: str,
        percent: float,
        *,
        expected: float | None = None,
        leased: bool = True,
    ) -> ServiceStatus:
        """Give the canary this share. Percent 0 is the emergency brake: it never waits for a model.

        `expected`: the share that the caller knows of. Where the canary has neither it nor `percent`, somebody
        else has changed it meanwhile (taken it back, most likely), and ServingError says so; a share that has lapsed
        is 0. `leased`: a share that is not stays, whoever watches it.
        """
        ...

    def renew(self, service: str, version: str) -> Lapse | None:
        """Say that this canary's share is watched. Cheap: called once a second for each open rollout.

        A leased share that nobody speaks for in `LEASE` is taken away by the serving side, on its own clock, and stays
        away until a command sets a share anew, which begins a new lease. Until then the lapse is returned here. None
        also where nothing lapses: no such canary, no share and no mirror, a share without a lease, nothing stable that
        could take the traffic. Raises ServingError where it could not be said: then it is not known whether it was.
        """
        ...

    def promote(self, service: str, version: str, *, replacing: str | None = None) -> ServiceStatus:
        """Make the version the stable one at 100 % and retire the previous one after draining it.

        `replacing`: the stable version that the caller knows of, `NOTHING` where none is. Where another one is stable
        when the change is made, it is not made, and ServingError says so. So it does of a canary whose share has lapsed:
        a promotion gives no traffic back that was taken away.
        """
        ...

    def roll_back(self, service: str, version: str) -> ServiceStatus:
        """Traffic away from the version first, then restore the spec and stop it. No-op if it is gone."""
        ...

    def counters(self, service: str) -> Counters:
        """Cumulative counts per gateway and revision. Raises `NotMeasured` where no gateway can be read."""
        ...

    def all_counters(self, services: Iterable[str]) -> Mapping[str, "Counters | RampgateError"]:
        """Of each service what `counters` answers or raises: what cannot be read of one keeps no other from its counts."""
        ...

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send one Open Inference Protocol v2 request to that version, past the weights (a probe).

        Raises VersionFailed where the version itself answered and gave no prediction, and any other ServingError where
        it could not be asked: no connection, a timeout, an answer of something in front of it.
        """
        ...


def one_by_one(
    counters: Callable[[str], Counters], services: Iterable[str]
) -> Mapping[str, Counters | RampgateError]:
    """`all_counters` of a serving side that is asked for each service by itself."""
    return {service: _answer(counters, service) for service in services}


def _answer(counters: Callable[[str], Counters], service: str) -> Counters | RampgateError:
    try:
        return counters(service)
    except RampgateError as error:
        return error


def version_of(revision: RevisionStatus | None) -> str | None:
    """The revision's version; None where there is no revision."""
    return None if revision is None else revision.version


def not_replaced(service: str, version: str, *, stable: str | None, replacing: str | None) -> str:
    """Why the stable version does not give way to `version`; empty if it may, or has."""
    served = stable or NOTHING
    if replacing is None or served in (replacing, version):
        return ""
    return (
        f"{service}: version {served or '(none)'} is served meanwhile, and version {version} was not compared with it,"
        f" so it is not promoted"
    )


def lapsed_meanwhile(service: str, lapse: Lapse) -> str:
    """Why a canary whose share has lapsed is not promoted, and has not what it was given."""
    had = " and ".join(
        [f"{lapse.percent:g} %"] * (lapse.percent > 0) + ["a copy of the traffic"] * lapse.mirror
    )
    return f"{service}: version {lapse.version} had {had}, which was taken away at {lapse.at:%H:%M:%S} UTC: {lapse.reason}"


def overtaken(service: str, version: str, *, share: float, expected: float | None, percent: float) -> str:
    """Why a share is not given any more; empty if it may be."""
    if expected is None or share in (expected, percent):
        return ""
    return (
        f"{service}: version {version} has {share:g} %, not the expected {expected:g} %: somebody changed it"
        f" meanwhile, so it is not given {percent:g} %"
    )


_OWN_ERRORS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.NOT_IMPLEMENTED,
)
"""What a model server says of a request and its model; the rest comes as often from what stands in front of it."""


def prediction(who: str, answer: httpx.Response, *, served: str | None = None) -> Mapping[str, Any]:
    """The v2 answer to a probe of `who`. Raises VersionFailed and ServingError as `ServingBackend.predict` does.

    `served` is the revision that the gateway says it asked, None where nothing says so. An error is the version's own
    only where it is JSON, which gateways and meshes do not write.
    """
    said = f"{who} answered {answer.status_code}: {answer.text[:2000]}"
    if served is not None and served != who:
        raise ServingError(f"a probe of {who} was answered by {served or 'the gateway'}: {said}")
    body = _json(answer)
    if answer.is_success and _is_prediction(body):
        return cast(dict[str, Any], body)
    if answer.is_success or (answer.status_code in _OWN_ERRORS and body is not None):
        raise VersionFailed(said)
    raise ServingError(said)


def _is_prediction(body: object) -> bool:
    """Whether it has the shape of a v2 answer; what is in its outputs is compared with the signature elsewhere."""
    outputs = cast(dict[str, Any], body).get("outputs", []) if isinstance(body, dict) else None
    return isinstance(outputs, list) and all(isinstance(each, dict) for each in cast(list[object], outputs))


def _json(answer: httpx.Response) -> object:
    """None for what is not JSON."""
    try:
        return answer.json()
    except ValueError:
        return None
