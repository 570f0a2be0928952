"""What each action does to the serving side and the registry. Every one of them may be repeated."""

from pipelines.errors import ServingError
from pipelines.rollout.events import Action, Intent
from pipelines.rollout.state import RolloutState
from resources.controller.registry import Registry, register
from resources.serving.backend import ModelArtefact, ServiceStatus, ServingBackend


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
                self._backend.promote(model, version)
            case Action.TRAFFIC_OFF:
                self.traffic_off(model, version)
            case Action.RESTORE:
                self._backend.roll_back(model, version)
            case Action.REGISTER:
                register(self._registry, state)

    def traffic_off(self, model: str, version: str) -> None:
        """No live traffic to the version, in whatever state it is."""
        try:
            self._backend.set_canary_percent(model, version, 0.0)
        except ServingError:
            if not _without_traffic(self._backend.status(model), version):
                raise

    def is_stable(self, state: RolloutState) -> bool:
        """Whether the version has become the stable one. Raises ServingError."""
        stable = self._backend.status(state.model).stable
        return stable is not None and stable.version == state.version

    def clean_up(self, state: RolloutState) -> None:
        """Stop a version whose deployment finished after its rollout had been taken back."""
        if not self.is_stable(state):
            self._backend.roll_back(state.model, state.version)

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


def _without_traffic(status: ServiceStatus, version: str) -> bool:
    if status.stable is not None and status.stable.version == version:
        return False
    return status.canary is None or status.canary.version != version or status.canary.percent == 0
