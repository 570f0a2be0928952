"""One predictor process from model directory to SIGTERM."""

import gc
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import VersionRefused
from pipelines.core.manifest.model import PredictionLog
from resources.prediction_log.cloudevents import Origin
from resources.prediction_log.segments import Durability, SegmentWriter
from resources.registry import mlmodel
from resources.registry.artefact_policy import violations
from resources.registry.digest import verify
from resources.serving.predictor.guard import install
from resources.settings import HOST


@dataclass(frozen=True, kw_only=True)
class PredictorOptions:
    """The command line."""

    model_dir: Path
    digest: str
    """What the rollout pinned (`resources.registry.digest`)."""
    allow: tuple[str, ...]
    """The manifest's `artefact.allow` when the version was deployed."""
    origin: Origin
    port: int
    log_dir: Path
    durability: Durability
    limits: PredictionLog = PredictionLog()
    """What one request may hold."""
    host: str = HOST
    """What it listens on; in a pod, where the network policy is the fence, all addresses."""


def run(options: PredictorOptions) -> None:
    """Load the model, then listen, so that an open port is a model that answers.

    Raises `VersionRefused` when the directory holds no model with a signature that can be served, not what was pinned,
    or something that runs code and is not allowed.
    """
    # Before the imports, which take seconds: a supervisor starts what is refused again and again.
    if not (options.model_dir / "MLmodel").is_file():
        raise VersionRefused(f"{options.model_dir} is no MLflow model: it has no file MLmodel")
    verify(options.model_dir, options.digest)
    _judge(options)
    gc.disable()  # imports and loading make no garbage worth the time
    from resources.serving.predictor.logged_model import ServedModel
    from resources.serving.predictor.logs import LOADED, configure_logging
    from resources.serving.predictor.server import serve

    configure_logging()
    with SegmentWriter(options.log_dir, options.origin.revision, options.durability) as writer:
        pyfunc = load_pyfunc(options.model_dir, allow=options.allow)
        model = ServedModel(pyfunc, options.origin, writer, options.limits)
        # What is loaded stays: collections during requests need not walk it again.
        gc.collect()
        gc.freeze()
        gc.enable()
        origin, seconds = options.origin, time.process_time()
        print(
            f"{origin.service} version {origin.version} ({origin.revision}) {LOADED} {seconds:.1f} s of CPU",
            file=sys.stderr,
            flush=True,
        )
        serve(model, port=options.port, host=options.host)


def _judge(options: PredictorOptions) -> None:
    """Once more, by what is there now: whoever starts this process need not have asked whether it may be loaded."""
    refused = violations(mlmodel.LoggedModel.read(options.model_dir), options.allow)
    if refused:
        raise VersionRefused(f"{options.model_dir} is not loaded: {'; '.join(refused)}")


def load_pyfunc(directory: Path, *, allow: Collection[str]) -> Any:
    """The `mlflow.pyfunc.PyFuncModel` in a local directory; no tracking server is asked.

    The process is guarded from then on (`guard`).
    """
    from mlflow import pyfunc

    # Modules that come with the artefact would leave their bytecode in it, and change its digest.
    sys.dont_write_bytecode = True
    install(directory, allow)
    return pyfunc.load_model(str(directory), suppress_warnings=True)
