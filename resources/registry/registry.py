"""MLflow's registry, as far as a rollout needs it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.core.errors import NotInRegistry, RegistryError, VersionRefused
from resources.registry.artefact_policy import violations
from resources.registry.artefacts import ArtefactCache
from resources.registry.client import RegistryApi, VersionInfo
from resources.registry.mlmodel import LoggedModel, v2_request
from resources.registry.signature import ModelSchema
from resources.serving.contract import ModelArtefact

PAGE = "1000"
"""As many as MLflow gives."""


@dataclass(frozen=True)
class Registry:
    """One MLflow server. Every failure is a `RegistryError` that says what was asked and what came back."""

    uri: str
    """http(s) address of the MLflow server."""
    cache: Path
    """Where artefacts are kept once they have been downloaded: `<home>/models-cache`."""
    timeout: float = 5.0
    """Seconds, per attempt of a call."""
    attempts: int = 3

    def version_with_alias(self, model: str, alias: str) -> VersionInfo | None:
        """The version that has the alias; None where there is no such alias or model."""
        return self._version("registered-models/alias", name=model, alias=alias)

    def aliased(self, alias: str) -> dict[str, str]:
        """Model -> the version that has the alias, of all models that have it; `PAGE` models a call."""
        path, token, found = "registered-models/search", "", dict[str, str]()
        while True:
            answer = self._api.call("GET", path, max_results=PAGE, **({"page_token": token} if token else {}))
            with _readable(path):
                for model in answer.get("registered_models", ()):
                    held = {each["alias"]: str(each["version"]) for each in model.get("aliases", ())}
                    found |= {model["name"]: held[alias]} if alias in held else {}
                token = str(answer.get("next_page_token") or "")
            if not token:
                return found

    def version(self, model: str, version: str) -> VersionInfo | None:
        """One version; None where it does not exist."""
        return self._version("model-versions/get", name=model, version=version)

    def versions(self, model: str) -> tuple[VersionInfo, ...]:
        """The model's versions, newest first, at most 200; none where there is no such model."""
        if "'" in model:
            raise RegistryError(f"model == {model!r}, must have no quotes")
        answer = self._api.call("GET", "model-versions/search", filter=f"name='{model}'", max_results="200")
        with _readable("model-versions/search"):
            found = [VersionInfo.from_rest(item) for item in answer.get("model_versions", ())]
            return tuple(sorted(found, key=lambda info: int(info.version), reverse=True))

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Give the alias to this version, taking it from whichever has it."""
        self._api.call("POST", "registered-models/alias", name=model, alias=alias, version=version)

    def remove_alias(self, model: str, alias: str) -> None:
        """Take the alias away; nothing happens where it is not set."""
        self._api.call("DELETE", "registered-models/alias", name=model, alias=alias)

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version, replacing its value."""
        self._api.call("POST", "model-versions/set-tag", name=model, version=version, key=key, value=value)

    def tags(self, model: str, version: str) -> Mapping[str, str]:
        """The version's tags; none where there is no such version."""
        info = self.version(model, version)
        return {} if info is None else info.tags

    def signature(self, model: str, version: str) -> ModelSchema:
        """What the version takes and gives. Raises `VersionRefused` where it does not say."""
        return self._logged(model, version).signature()

    def input_example(self, model: str, version: str) -> dict[str, Any]:
        """The saved example as an Open Inference Protocol v2 request: `{"inputs": [tensor per column]}`.

        Raises `VersionRefused` where the version has no example or one that does not fit the signature.
        """
        logged = self._logged(model, version)
        return v2_request(logged.example(), logged.signature())

    def artefact_policy(self, model: str, version: str, allow: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Why the artefact may not be loaded; empty where it may. `allow` is the manifest's `artefact.allow`."""
        try:
            return violations(self._logged(model, version), allow)
        except VersionRefused as refused:
            return (str(refused),)

    def artefact(self, model: str, version: str, *, local: bool = True) -> ModelArtefact:
        """The artefact pinned by digest: a copy on this machine, or with `local=False` where MLflow keeps it."""
        directory = self._directory(model, version)
        uri = str(directory) if local else self._download_uri(model, version)
        digest = self._cache.digest(directory)
        return ModelArtefact(model=model, version=version, uri=uri, digest=digest)

    def take_anew(self, model: str, version: str) -> None:
        """Download the artefact again: it may have been changed where it lies (`mlflow.models.set_signature`)."""
        self._cache.take(model, version, self._download_uri(model, version))

    def _version(self, path: str, **values: str) -> VersionInfo | None:
        try:
            answer = self._api.call("GET", path, **values)
        except NotInRegistry:
            return None
        with _readable(path):
            return VersionInfo.from_rest(answer["model_version"])

    def _logged(self, model: str, version: str) -> LoggedModel:
        return LoggedModel.read(self._directory(model, version))

    def _directory(self, model: str, version: str) -> Path:
        return self._cache.directory(model, version, self._download_uri(model, version))

    def _download_uri(self, model: str, version: str) -> str:
        path = "model-versions/get-download-uri"
        answer = self._api.call("GET", path, name=model, version=version)
        with _readable(path):
            return str(answer["artifact_uri"])

    @cached_property
    def _api(self) -> RegistryApi:
        return RegistryApi(self.uri, timeout=self.timeout, attempts=self.attempts)

    @cached_property
    def _cache(self) -> ArtefactCache:
        return ArtefactCache(self.cache, self._api)


@contextmanager
def _readable(what: str) -> Generator[None]:
    """An answer that is not MLflow's, such as a proxy's, answers nothing."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RegistryError(f"MLflow's answer to GET {what} cannot be read: {error!r}") from error
