"""The desired state of one service, and the changes that a rollout makes to it. Pure."""

from dataclasses import dataclass, replace

from pipelines.errors import ServingError
from resources.serving.backend import ModelArtefact


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A revision with its processes, one per port."""

    name: str
    model: str
    version: str
    digest: str
    ports: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Canary:
    """The revision on trial."""

    revision: Deployed
    salt: str
    percent: float = 0.0
    mirror: bool = False
    command: int = 0
    """Counts the commands that set its share; a slow command gives way to a newer one."""


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """What should be in force. Everything that the gateway needs to know is here."""

    service: str
    timeout_ms: int = 60_000
    serial: int = 0
    """Number of the last revision; never used twice."""
    stable: Deployed | None = None
    canary: Canary | None = None
    retiring: tuple[Deployed, ...] = ()
    """Out of the routes, but not stopped yet."""

    def deployed(self) -> tuple[Deployed, ...]:
        """Every revision that has processes."""
        live = (self.stable, self.canary.revision if self.canary else None)
        return tuple(revision for revision in live if revision is not None) + self.retiring

    def canary_of(self, version: str) -> Canary:
        """The canary, if it is this version. Raises `ServingError` saying what is there instead."""
        if self.canary is None or self.canary.revision.version != version:
            there = f"version {self.canary.revision.version}" if self.canary else "none"
            raise ServingError(f"{self.service}: version {version} is not the canary (the canary is {there})")
        return self.canary


def begin_canary(state: ServiceState, artefact: ModelArtefact, *, salt: str) -> ServiceState:
    """The state with `artefact` as its canary at 0 %, without processes yet; unchanged if it is there."""
    if state.stable is not None and state.stable.version == artefact.version:
        raise ServingError(f"{state.service}: version {artefact.version} is already the stable revision")
    if state.canary is not None:
        _require_same(state, artefact)
        return state
    serial = state.serial + 1
    revision = Deployed(
        name=f"{state.service}-{serial:05d}",
        model=artefact.model,
        version=artefact.version,
        digest=artefact.digest,
        ports=(),
    )
    return replace(state, serial=serial, canary=Canary(revision=revision, salt=salt))


def _require_same(state: ServiceState, artefact: ModelArtefact) -> None:
    present = state.canary_of(artefact.version).revision
    if present.digest != artefact.digest:
        raise ServingError(
            f"{state.service}: version {artefact.version} is the canary with digest {present.digest[:12]},"
            f" asked for was {artefact.digest[:12]}: roll it back first"
        )


def with_ports(state: ServiceState, version: str, ports: tuple[int, ...]) -> ServiceState:
    """The state with these processes for the canary."""
    canary = state.canary_of(version)
    return replace(state, canary=replace(canary, revision=replace(canary.revision, ports=ports)))


def with_share(
    state: ServiceState, version: str, *, percent: float, mirror: bool = False, salt: str | None = None
) -> ServiceState:
    """The state with this share for the canary; any command that is still under way is superseded."""
    canary = state.canary_of(version)
    new_salt = canary.salt if salt is None else salt
    changed = replace(canary, percent=percent, mirror=mirror, salt=new_salt, command=canary.command + 1)
    return replace(state, canary=changed)


def promoted(state: ServiceState, version: str) -> ServiceState:
    """The state with the canary as the stable revision and the previous one retiring."""
    canary = state.canary_of(version)
    retiring = state.retiring + ((state.stable,) if state.stable else ())
    return replace(state, stable=canary.revision, canary=None, retiring=retiring)


def rolled_back(state: ServiceState, version: str) -> ServiceState:
    """The state without the canary, unchanged if this version is not there."""
    if state.canary is not None and state.canary.revision.version == version:
        return replace(state, canary=None, retiring=(*state.retiring, state.canary.revision))
    if state.stable is not None and state.stable.version == version:
        raise ServingError(
            f"{state.service}: version {version} is the stable revision; only a canary rolls back"
        )
    return state


def without(state: ServiceState, revision: str) -> ServiceState:
    """The state after a retiring revision was stopped."""
    return replace(state, retiring=tuple(each for each in state.retiring if each.name != revision))
