"""A call that was slow, or slept, must not undo what somebody decided in the meantime."""

from collections.abc import Callable
from dataclasses import dataclass

from resources.serving.backend import not_replaced, overtaken, version_of
from resources.serving.kserve import knative, knative_view, standard, standard_view
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


@dataclass(frozen=True)
class Share:
    """One call of `set_canary_percent`, asked again after every wait and conflict."""

    version: str
    percent: int
    expected: float | None

    def on_knative(self, view: KnativeView) -> Step:
        """The next step in Knative mode."""
        canary = knative_view.status(view).canary
        there = view.percent if canary and canary.version == self.version else None
        return self._refusal(view.service, there) or knative.set_percent(view, self.version, self.percent)

    def on_standard(self, view: StandardView) -> Step:
        """The next step in Standard mode."""
        canary = view.canary
        there = canary.percent if canary and canary.identity.version == self.version else None
        return self._refusal(view.service, there) or standard.set_percent(view, self.version, self.percent)

    def _refusal(self, service: str, there: int | None) -> Refuse | None:
        if there is None:
            return None
        problem = overtaken(service, self.version, share=there, expected=self.expected, percent=self.percent)
        return Refuse(problem) if problem else None


@dataclass(frozen=True)
class Promotion:
    """One call of `promote`. The check holds for the patch: it names the resourceVersion that was looked at."""

    version: str
    replacing: str | None

    def on_knative(self, view: KnativeView) -> Step:
        """The next step in Knative mode."""
        stable = version_of(knative_view.status(view).stable)
        return self._refusal(view.service, stable) or knative.promote(view, self.version)

    def on_standard(self, view: StandardView) -> Step:
        """The next step in Standard mode."""
        stable = version_of(standard_view.status(view).stable)
        return self._refusal(view.service, stable) or standard.promote(view, self.version)

    def _refusal(self, service: str, stable: str | None) -> Refuse | None:
        problem = not_replaced(service, self.version, stable=stable, replacing=self.replacing)
        return Refuse(problem) if problem else None
