"""What the cluster wants of the gateway, kept up to date by two watches."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.errors import ServingError
from resources.serving.kserve import knative, standard
from resources.serving.kserve.assignment import Assignment, decode
from resources.serving.kserve.client import ASSIGNMENTS, Cluster, Expired, Unreachable, watch
from resources.serving.kserve.knative import KnativeView
from resources.serving.kserve.service import DeploymentMode, Installation, detect, read_installation
from resources.serving.kserve.split import Split, lapses, split
from resources.serving.kserve.standard import StandardView


class Installed:
    """Reads the config map when it is first asked. Raises ServingError where that fails, and tries again."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._found: Installation | None = None

    def __call__(self) -> Installation:
        if self._found is None:
            found = self._cluster.config_map(self._namespace, "inferenceservice-config")
            self._found = read_installation(found)
        return self._found


# What the cluster wants of the gateway, kept up to date by two watches.


_LOG = logging.getLogger(__name__)

_WATCH_SECONDS = 60
"""A watch ends after this and everything is listed again: an event that was lost is made good."""

_RETRY_SECONDS = 0.5


@dataclass
class Follower:
    """One namespace's InferenceServices and assignments."""

    cluster: Cluster
    installed: Callable[[], Installation]
    changed: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    trouble: dict[str, str] = field(default_factory=dict[str, str])
    """What cannot be followed now, and why."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[str, KnativeView | StandardView] = {}
        self._assignments: dict[str, Assignment] = {}
        self._listed: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether everything was seen once."""
        return self._listed == {"services", "assignments"}

    def splits(self) -> dict[str, Split]:
        """What should be in force, by service."""
        with self._lock:
            found = {name: split(view, self._assignments.get(name)) for name, view in self._views.items()}
        return {name: each for name, each in found.items() if each is not None}

    def assignments(self) -> dict[str, Assignment]:
        """Every service's last one."""
        with self._lock:
            return dict(self._assignments)

    def leased(self) -> set[str]:
        """The services whose canary has something that may lapse."""
        with self._lock:
            return {
                name
                for name, each in self._assignments.items()
                if name in self._views and lapses(self._views[name], each)
            }

    def start(self) -> list[threading.Thread]:
        """Follow on two threads until `stop` is set."""
        services, maps = self.cluster.services_path(), self.cluster.config_maps_path()
        jobs = [
            ("services", services, "", self._take_service),
            ("assignments", maps, ASSIGNMENTS, self._take_assignments),
        ]
        threads = [threading.Thread(target=self._follow, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        return threads

    def _follow(
        self, name: str, path: str, only: str, take: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        while not self.stop.is_set():
            try:
                self._once(name, path, only, take)
                self.trouble.pop(name, None)
            except Expired as expired:
                _LOG.info("%s: %s", name, expired)
            except ServingError as error:
                if self.trouble.get(name) != str(error):
                    _LOG.warning("%s cannot be followed; what is in force stays: %s", name, error)
                self.trouble[name] = str(error)
                time.sleep(_RETRY_SECONDS)

    def _once(self, name: str, path: str, only: str, take: Callable[[str, Mapping[str, Any]], None]) -> None:
        items, version = self.cluster.everything(path, only=only)
        for item in items:
            take("MODIFIED", item)
        self._forget_others(name, {str(item["metadata"]["name"]) for item in items})
        self._listed.add(name)
        self.changed.set()
        for event in watch(self.cluster, path, since=version, seconds=_WATCH_SECONDS, only=only):
            if self.stop.is_set():
                return
            if event["type"] != "BOOKMARK" and (not only or event["object"]["metadata"]["name"] == only):
                take(event["type"], event["object"])
                self.changed.set()

    def _forget_others(self, kind: str, names: set[str]) -> None:
        with self._lock:
            if kind == "services":
                self._views = {name: view for name, view in self._views.items() if name in names}
            elif not names:
                self._assignments = {}

    def _take_service(self, event: str, isvc: Mapping[str, Any]) -> None:
        name = str(isvc["metadata"]["name"])
        self.trouble.pop(name, None)
        if event == "DELETED":
            with self._lock:
                self._views.pop(name, None)
            return
        try:
            view = self._view(name, isvc)
        except Unreachable:
            raise
        except ServingError as error:  # this service's own trouble: what it last was stays, others go on
            self.trouble[name] = str(error)
            return
        with self._lock:
            self._views[name] = view

    def _view(self, name: str, isvc: Mapping[str, Any]) -> KnativeView | StandardView:
        recorded = (isvc.get("status") or {}).get("deploymentMode", "")
        mode = (
            DeploymentMode.KNATIVE
            if recorded in ("Knative", "Serverless")
            else detect(isvc, self.installed())
        )
        if mode is DeploymentMode.KNATIVE:
            return knative.read(name, isvc, self.cluster.revisions(name), [])
        return standard.read(name, isvc, [], [], [])

    def _take_assignments(self, event: str, config_map: Mapping[str, Any]) -> None:
        data: Mapping[str, str] = {} if event == "DELETED" else config_map.get("data") or {}
        with self._lock:
            self._assignments = {name: each for name, each in self._assignments.items() if name in data}
            for name, text in data.items():
                self._take_assignment(name, text)

    def _take_assignment(self, name: str, text: str) -> None:
        """One that is none leaves its service as it was."""
        self.trouble.pop(f"assignment of {name}", None)
        try:
            self._assignments[name] = decode(name, text)
        except ServingError as error:
            self.trouble[f"assignment of {name}"] = str(error)
