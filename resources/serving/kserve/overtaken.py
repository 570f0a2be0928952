"""A deployment that waits for its model must not start again what somebody rolled back in the meantime."""

from collections.abc import Callable
from dataclasses import dataclass

from resources.serving.kserve import knative, standard
from resources.serving.kserve.knative_view import KnativeView
from resources.serving.kserve.standard_view import StandardView
from resources.serving.kserve.steps import Refuse, Step, Wanted


@dataclass
class Deployment:
    """One call of `deploy_canary`; remembers whether its version was ever in the spec."""

    wanted: Wanted
    started: bool = False

    def on_knative(self, view: KnativeView) -> Step:
        """The next step in Knative mode."""
        here = view.exists and view.spec.key == self.wanted.key
        return self._unless_overtaken(here, view.service, lambda: knative.deploy(view, self.wanted))

    def on_standard(self, view: StandardView) -> Step:
        """The next step in Standard mode."""
        canary = view.canary.identity.key if view.canary else None
        here = self.wanted.key in (canary, view.spec.key)
        return self._unless_overtaken(here, view.service, lambda: standard.deploy(view, self.wanted))

    def _unless_overtaken(self, here: bool, service: str, plan: Callable[[], Step]) -> Step:
        if self.started and not here:
            return Refuse(f"{service}: version {self.wanted.version} was rolled back while it was deployed")
        self.started = self.started or here
        return plan()
