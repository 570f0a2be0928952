"""The command line of one predictor process."""

import argparse
import os
import sys
from pathlib import Path

from pipelines.core.errors import RampgateError
from pipelines.core.manifest.model import PredictionLog
from resources.serving.predictor.guard import KINDS
from resources.serving.predictor.logs import STARTS

_ENVIRONMENT = {
    # Several predictors share few cores: a thread pool each would only contend.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "ARROW_NUM_THREADS": "1",
    # Nothing is reported to anybody.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}

_LIMITS = PredictionLog()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("resources.serving.predictor", description=__doc__)
    parser.add_argument("--model-dir", type=Path, required=True, help="a directory with an MLmodel file")
    parser.add_argument("--digest", required=True, help="what the directory's digest must be")
    parser.add_argument(
        "--allow", action="append", choices=KINDS, default=[], help="what may run code; may repeat"
    )
    parser.add_argument("--model-name", required=True, help="name of the InferenceService")
    parser.add_argument("--model-version", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-dir", type=Path, required=True, help="where prediction log segments go")
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    parser.add_argument("--max-rows", type=int, default=_LIMITS.max_rows, help="rows of one request")
    parser.add_argument(
        "--max-bytes", type=int, default=_LIMITS.max_bytes, help="bytes of one request's body"
    )
    return parser.parse_args()


def main() -> None:
    """Run one predictor until SIGTERM."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Also where a model asks for more.
    os.environ.setdefault("OMP_THREAD_LIMIT", os.environ["OMP_NUM_THREADS"])
    given = _arguments()
    print(f"{STARTS}: {given.revision}", file=sys.stderr, flush=True)
    sys.argv = sys.argv[:1]  # kserve parses the command line of whoever imports it

    from resources.prediction_log.cloudevents import Origin
    from resources.serving.predictor.process import PredictorOptions, run

    origin = Origin(service=given.model_name, version=given.model_version, revision=given.revision)
    try:
        run(
            PredictorOptions(
                model_dir=given.model_dir,
                digest=given.digest,
                allow=tuple(given.allow),
                origin=origin,
                port=given.port,
                log_dir=given.log_dir,
                durability=given.durability,
                limits=PredictionLog(max_rows=given.max_rows, max_bytes=given.max_bytes),
            )
        )
    except RampgateError as error:
        sys.exit(f"predictor {given.revision}: {error}")


if __name__ == "__main__":
    main()
