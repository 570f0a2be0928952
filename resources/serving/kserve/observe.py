"""One observation of a service: the InferenceService and what the cluster made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from resources.serving.contract import RevisionStatus, not_replaced, overtaken, version_of
from resources.serving.kserve import knative, standard
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.driver import Refuse, Step, Wanted
from resources.serving.kserve.knative import KnativeView
from resources.serving.kserve.service import (
    DeploymentMode,
    Installation,
    check_split,
    checked_predictor,
    detect,
)
from resources.serving.kserve.standard import StandardView


@dataclass(frozen=True)
class Observers:
    """Looks at one service in whatever mode it runs."""

    cluster: Cluster
    service: str
    installed: Callable[[], Installation]

    def observe(self, *, splitting: bool = False) -> tuple[KnativeView | StandardView, str]:
        """The observation and the object's resourceVersion (empty where there is no object).

        Raises ServingError where the mode is not known or, if `splitting`, cannot split traffic.
        """
        isvc = self.cluster.read(self.service)
        if isvc is None:
            return KnativeView(service=self.service), ""
        recorded = (isvc.get("status") or {}).get("deploymentMode", "")
        knative_for_sure = recorded in ("Knative", "Serverless")
        mode = DeploymentMode.KNATIVE if knative_for_sure else self._detect(isvc, splitting=splitting)
        if splitting:
            checked_predictor(isvc, self.service)
        read = self._knative if mode is DeploymentMode.KNATIVE else self._standard
        return read(isvc), isvc["metadata"]["resourceVersion"]

    def since(self, view: KnativeView | StandardView, revision: RevisionStatus | None) -> datetime:
        """When a revision began."""
        text = ""
        if revision is not None and isinstance(view, KnativeView) and revision.name in view.revisions:
            text = view.revisions[revision.name].created_at
        elif revision is not None and isinstance(view, StandardView):
            text = view.created_at.get(revision.name, "")
        return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else datetime.now(UTC)

    def _detect(self, isvc: dict[str, Any], *, splitting: bool) -> DeploymentMode:
        installed = self.installed()
        mode = detect(isvc, installed)
        if splitting:
            check_split(self.service, mode, installed)
        return mode

    def _knative(self, isvc: dict[str, Any]) -> KnativeView:
        revisions = self.cluster.revisions(self.service)
        return knative.read(self.service, isvc, revisions, self.cluster.pods(self.service))

    def _standard(self, isvc: dict[str, Any]) -> StandardView:
        names = (self.service, f"{self.service}-predictor")
        routes = [route for route in map(self.cluster.route, names) if route is not None]
        deployments, pods = self.cluster.deployments(self.service), self.cluster.pods(self.service)
        return standard.read(self.service, isvc, deployments, pods, routes)


# A call that was slow, or slept, must not undo what somebody decided in the meantime.


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
        canary = knative.status(view).canary
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
        stable = version_of(knative.status(view).stable)
        return self._refusal(view.service, stable) or knative.promote(view, self.version)

    def on_standard(self, view: StandardView) -> Step:
        """The next step in Standard mode."""
        stable = version_of(standard.status(view).stable)
        return self._refusal(view.service, stable) or standard.promote(view, self.version)

    def _refusal(self, service: str, stable: str | None) -> Refuse | None:
        problem = not_replaced(service, self.version, stable=stable, replacing=self.replacing)
        return Refuse(problem) if problem else None
