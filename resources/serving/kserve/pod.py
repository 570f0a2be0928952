"""The predictor in a pod: the same as on one machine, with its identity from the pod's own metadata.

`python -m resources.serving.kserve.pod --model-dir=/mnt/models --port=8080`; the ServingRuntime in
serving_manifests/platform gives it the environment variables. The artefact's digest is verified before anything
in it is loaded. The prediction log of a cluster is KServe's payload logger, so that the segments written here go to
RAMPGATE_PREDICTION_LOG where a shared volume is mounted, and are removed as they close where none is.
"""

import argparse
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import RampgateError, VersionRefused
from pipelines.core.manifest.model import PredictionLog
from resources.prediction_log.segments import closed_segments
from resources.serving.predictor.guard import KINDS

_UNMOUNTED = Path("/tmp/rampgate-predictions")

_SWEEP_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What the pod's metadata says."""

    service: str
    version: str
    digest: str
    revision: str
    log: Path | None
    allow: tuple[str, ...] = ()
    """What may run code when the model is loaded."""
    limits: PredictionLog = PredictionLog()
    """What one request may hold."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Pod":
        """Raises VersionRefused naming what is missing."""
        for name in ("RAMPGATE_SERVICE", "RAMPGATE_VERSION", "RAMPGATE_REVISION"):
            if env.get(name, "none") in ("", "none"):
                raise VersionRefused(f"{name} is empty: this runtime serves what a rollout deployed")
        log = env.get("RAMPGATE_PREDICTION_LOG", "")
        return cls(
            service=env["RAMPGATE_SERVICE"],
            version=env["RAMPGATE_VERSION"],
            digest=env.get("RAMPGATE_DIGEST", ""),
            revision=env["RAMPGATE_REVISION"],
            log=Path(log) / env["RAMPGATE_SERVICE"] if log else None,
            allow=_allowed(env.get("RAMPGATE_ALLOW", "")),
            limits=_limits(env),
        )


def _allowed(text: str) -> tuple[str, ...]:
    kinds = () if text in ("", "none") else tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise VersionRefused(f"RAMPGATE_ALLOW == {text!r}, must be none or some of {', '.join(KINDS)}")
    return kinds


def _limits(env: Mapping[str, str]) -> PredictionLog:
    given = {
        field: value
        for field, name in (("max_rows", "RAMPGATE_MAX_ROWS"), ("max_bytes", "RAMPGATE_MAX_BYTES"))
        if (value := env.get(name, ""))
    }
    try:
        return PredictionLog.model_validate(given)
    except ValueError as error:
        raise VersionRefused(f"RAMPGATE_MAX_ROWS, RAMPGATE_MAX_BYTES == {given}: {error}") from error


def sweep(directory: Path) -> None:
    """Remove closed segments: nobody reads them, and a pod's disk is small."""
    for path in closed_segments(directory):
        path.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """Load what was pinned and serve it until SIGTERM."""
    parser = argparse.ArgumentParser("resources.serving.kserve.pod", description=__doc__)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="0.0.0.0")
    given = parser.parse_args(arguments)
    sys.argv = sys.argv[:1]  # kserve parses the command line of whoever imports it
    try:
        pod = Pod.from_environment(os.environ)
        _serve(pod, given.model_dir, given.host, given.port)
    except RampgateError as error:
        sys.exit(f"predictor: {error}")


def _serve(pod: Pod, model_dir: Path, host: str, port: int) -> None:
    from resources.prediction_log.cloudevents import Origin
    from resources.serving.predictor.process import PredictorOptions, run

    directory = pod.log or _UNMOUNTED
    if pod.log is None:
        threading.Thread(target=_sweeping, args=(directory,), daemon=True).start()
    origin = Origin(service=pod.service, version=pod.version, revision=pod.revision)
    run(
        PredictorOptions(
            model_dir=model_dir,
            digest=pod.digest,
            allow=pod.allow,
            origin=origin,
            port=port,
            log_dir=directory,
            durability="process",
            limits=pod.limits,
            host=host,
        )
    )


def _sweeping(directory: Path) -> None:
    while not threading.Event().wait(_SWEEP_SECONDS):
        sweep(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
