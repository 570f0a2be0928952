"""What each part of the platform finds in its environment: what it reads, and no secret of another one.

    python -IS resources/environment.py <part> [NAME ...] -- <program> [argument ...]

Supervisord gives a program all that it was started with itself: alert URLs, database passwords, keys of S3. Here the rest is
dropped before the program begins; the names that are given stay, too. This file imports nothing of ours: every start pays
for it.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

_EVERY_PART = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON*",
    "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "OMP_*", "OPENBLAS_*", "MKL_*", "NUMEXPR_*", "MALLOC_*",
    "DO_NOT_TRACK", "DAGSTER_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "GX_ANALYTICS_ENABLED",
    "DAGSTER_HOME", "RAMPGATE_HOME", "RAMPGATE_MANIFESTS", "RAMPGATE_SERVING", "RAMPGATE_HOSTS",
    "RAMPGATE_*_PORT", "RAMPGATE_PORT_BASE", "RAMPGATE_CODE_SOCKET", "RAMPGATE_ALONE",
)  # fmt: skip

_ALL = ("*",)

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

PREDICTOR = "predictor"

ALLOWED: Mapping[str, tuple[str, ...]] = {
    # Recipes and sensors run here, with whatever they need to know.
    "code": _ALL,
    "runs": _ALL,
    "daemon": ("DAGSTER_*",),
    "dagster": ("DAGSTER_*",),
    # Those of the server; MLFLOW_TRACKING_* are its clients'.
    "mlflow": ("MLFLOW_SERVER_*", "MLFLOW_FLASK_*", "MLFLOW_CRYPTO_*", "MLFLOW_SQL*", "MLFLOW_LOGGING_LEVEL"),
    "evidently": ("EVIDENTLY_*",),
    "reports": (),
    "gateway": (),
    # The ledger's address, and the channels: it delivers alerts where nobody else does. What manifests name comes on top.
    "watch": ("RAMPGATE_*", "PG*", *_PROXIES),
    # Its manifest's `env` is named by whoever starts it.
    # Names are whole where others keep secrets under the same prefix: NVIDIA_API_KEY, Terraform's TF_VAR_*.
    PREDICTOR: (
        "CUDA_*",
        "KMP_*",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_TF32_OVERRIDE",
        "TF_CPP_*",
        "TF_ENABLE_*",
        "TF_GPU_*",
        "TF_FORCE_GPU_ALLOW_GROWTH",
        "TF_NUM_*_THREADS",
        "TF_XLA_FLAGS",
    ),
}
"""By part, patterns of names beside those of every part. A part that is not listed gets those alone."""


def allowed(part: str, environment: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """The variables that the part is given."""
    patterns = (*_EVERY_PART, *ALLOWED.get(part, ()), *named)
    return {
        name: value
        for name, value in environment.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def confined(part: str, named: Iterable[str] = ()) -> list[str]:
    """What a command is put behind to be run with the part's environment."""
    return [sys.executable, "-IS", str(Path(__file__).resolve()), part, *named, "--"]


def main(arguments: list[str]) -> None:
    end = arguments.index("--")
    (part, *named), command = arguments[:end], arguments[end + 1 :]
    environment = allowed(part, os.environ, named)
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
