"""What each action does to the serving side and the registry. Every one of them may be repeated."""

from typing import assert_never

from pipelines.errors import ServingError
from pipelines.rollout.events import Action, Intent
from pipelines.rollout.state import RolloutState
from resources.controller.registry import Registry, register
from resources.serving.backend import NOTHING, ModelArtefact, ServingBackend


class Effects:
    """The outside world, one action at a time."""

    def __init__(self, backend: ServingBackend, registry: Registry) -> None:
        self._backend, self._registry = backend, registry

    def perform(self, state: RolloutState, intent: Intent) -> None:
        """Carry out the intent. Raises ServingError, RegistryError, VersionRefused."""
        if intent.dry:
            return
        model, version = state.model, state.version
        match intent.action:
            case Action.DEPLOY:
                self._remove_leftover(state)
                self._deploy(state, mirror=False)
            case Action.SHADOW:
                self._deploy(state, mirror=True)
            case Action.SET_PERCENT:
                if state.mirror:
                    self._deploy(state, mirror=False)
                share = intent.percent or 0.0
                self._backend.set_canary_percent(model, version, share, expected=state.percent)
            case Action.PROMOTE:
                self._require_share(state)
                self._backend.promote(model, version, replacing=_other_side(state))
            case Action.TRAFFIC_OFF:
                self.traffic_off(model, version)
            case Action.RESTORE:
                self._backend.roll_back(model, version)
            case Action.REGISTER:
                register(self._registry, state)
            case _:
                assert_never(intent.action)

    def traffic_off(self, model: str, version: str) -> None:
        """No live traffic to the version, in whatever state it is."""
        try:
            self._backend.set_canary_percent(model, version, 0.0)
        except Exception:
            if not self._is_gone(model, version):
                raise

    def _is_gone(self, model: str, version: str) -> bool:
        """A share of 0 would prove nothing: it may be what is wanted, and not yet what is in force."""
        try:
            status = self._backend.status(model)
        except ServingError:
            return False
        return all(side is None or side.version != version for side in (status.stable, status.canary))

    def is_stable(self, state: RolloutState) -> bool:
        """Whether the version has become the stable one. Raises ServingError."""
        stable = self._backend.status(state.model).stable
        return stable is not None and stable.version == state.version

    def clean_up(self, state: RolloutState) -> None:
        """Stop a version whose deployment finished after its rollout had been taken back."""
        if not self.is_stable(state):
            self._backend.roll_back(state.model, state.version)

    def _require_share(self, state: RolloutState) -> None:
        """A promotion gives no traffic back that somebody has taken away."""
        canary = self._backend.status(state.model).canary
        if canary is not None and canary.version == state.version and canary.percent < state.percent:
            raise ServingError(
                f"{state.model}: version {state.version} has {canary.percent:g} %, not the expected"
                f" {state.percent:g} %: somebody took traffic away meanwhile, so it is not promoted"
            )

    def _remove_leftover(self, state: RolloutState) -> None:
        """A model has one open rollout: another version's canary is what a controller that died left behind."""
        canary = self._backend.status(state.model).canary
        if canary is not None and canary.version != state.version:
            self._backend.roll_back(state.model, canary.version)

    def _deploy(self, state: RolloutState, *, mirror: bool) -> None:
        artefact = ModelArtefact(
            model=state.model,
            version=state.version,
            uri=state.artefact.uri,
            digest=state.artefact.digest,
        )
        self._backend.deploy_canary(state.model, artefact, percent=0.0, salt=state.salt, mirror=mirror)


def _other_side(state: RolloutState) -> str | None:
    """The one version that a promotion may take the place of; None: any, by a person's order."""
    if state.forcing:
        return None
    return NOTHING if state.champion is None else state.champion
