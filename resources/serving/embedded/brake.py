"""Taking traffic away: it needs no lock that somebody keeps, no free byte, and no state that can be read."""

from collections.abc import Callable

from pipelines.core.errors import ServingError
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.state import PATIENCE, ServiceState, StateStore


class Brake:
    """One way for a command, for a rollback, and for a share that nobody watches."""

    def __init__(self, store: StateStore, gateway: EmbeddedGateway) -> None:
        self._store, self._gateway = store, gateway

    def pull(
        self, service: str, change: Callable[[ServiceState], ServiceState | None]
    ) -> ServingError | None:
        """Publish what `change` makes of the service's state, then write it down; None: there is nothing to be done.

        Both are tried; returns why one could not be done. What was published is not confirmed yet. Raises what
        `change` raises, and DamagedState where there is no state to be changed.
        """
        with self._store.changing(service, patience=PATIENCE) as state:
            changed = change(state)
            try:
                if changed is not None:
                    self._take_away(state, changed)
            except ServingError as error:
                return error
        return None

    def release(self, service: str) -> None:
        """All that the service's canary gets, where the state is damaged. Raises ServingError."""
        self._gateway.take_away(service)

    def _take_away(self, before: ServiceState, after: ServiceState) -> None:
        """Traffic first, then the record; each is tried, whatever becomes of the other."""
        alone = True
        try:
            alone = self._gateway.publish("routes", instead=after)
        finally:
            if after != before:
                self._store.write(after, from_reserve=True)
        if not alone:
            self._gateway.publish("routes", instead=after)
