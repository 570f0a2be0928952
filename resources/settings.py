"""Settings: environment variables with documented defaults (docs/settings.md), read once per process."""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from pipelines.core.errors import RampgateError

ROOT = Path(__file__).resolve().parent.parent

HOST = "127.0.0.1"

RUN_MODEL = "RAMPGATE_RUN_MODEL"
"""In the environment of a run's process: the model whose manifest and definitions are all that it needs."""

WATCH_AT_ONCE = "RAMPGATE_WATCH_AT_ONCE"
"""In the environment of the code server alone: the definitions that are loaded there watch canaries from the start."""

SHORTEST_TOKEN = 16
"""Characters of a token that cannot be found by trying."""


def lies_open(host: str, token: str) -> bool:
    """Whether what listens on `host` is reached by others, past a token that is none or is found by trying."""
    return host != HOST and len(token) < SHORTEST_TOKEN


_HOST_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Loopback ports of the platform."""

    dagster: int
    mlflow: int
    evidently: int
    reports: int
    gateway: int
    predictors: int
    """The first of a range of 100."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where everything is. `Settings.from_environment()` is the one way to get it."""

    home: Path
    manifests: Path
    serving: str
    """`embedded` or `kserve`."""
    ports: Ports
    mlflow_uri: str
    ledger_url: str
    lake_catalog: str
    lake_data: str
    prediction_log: Path
    """Segments: <prediction_log>/<model>/*.jsonl."""
    log_store: str
    """Segments on an object store: s3://bucket/prefix, then <model>/*.jsonl; empty: none."""
    log_blobs: str
    """Where KServe's logger writes blobs: s3://bucket/prefix/<namespace>, then <model>/...; empty: none."""
    outcomes: Path
    """Outcome files: <outcomes>/<model>/*.jsonl."""
    alert_urls: tuple[str, ...]
    hosts: tuple[str, ...]
    """Names beside the loopback ones under which the web parts are reached: `name` or `name:port`, in lower case."""

    @property
    def model_cache(self) -> Path:
        """Where artefacts are kept once they have been downloaded."""
        return self.home / "models-cache"

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> "Settings":
        """Read `RAMPGATE_*`; everything has a default that works on one machine.

        Raises RampgateError for a `RAMPGATE_HOSTS` that holds no names.
        """
        env = os.environ if env is None else env
        home = Path(env.get("RAMPGATE_HOME", ROOT / "var")).resolve()
        ports = _ports(env)
        alerts = env.get("RAMPGATE_ALERT_URLS", "")
        return cls(
            home=home,
            manifests=Path(env.get("RAMPGATE_MANIFESTS", ROOT / "serving_manifests")).resolve(),
            serving=env.get("RAMPGATE_SERVING", "embedded"),
            ports=ports,
            mlflow_uri=env.get("MLFLOW_TRACKING_URI", f"http://{HOST}:{ports.mlflow}"),
            ledger_url=env.get("RAMPGATE_LEDGER_URL", f"sqlite:///{home / 'ledger.db'}"),
            lake_catalog=env.get("RAMPGATE_LAKE_CATALOG", f"sqlite:{home / 'lake' / 'catalog.db'}"),
            lake_data=env.get("RAMPGATE_LAKE_DATA", str(home / "lake" / "data")),
            prediction_log=Path(env.get("RAMPGATE_PREDICTION_LOG", home / "log" / "predictions")),
            log_store=env.get("RAMPGATE_PREDICTION_LOG_STORE", "").rstrip("/"),
            log_blobs=env.get("RAMPGATE_PREDICTION_LOG_BLOBS", "").rstrip("/"),
            outcomes=Path(env.get("RAMPGATE_OUTCOMES", home / "log" / "outcomes")),
            alert_urls=tuple(url for url in alerts.split() if url),
            hosts=_hosts(env.get("RAMPGATE_HOSTS", "")),
        )


def _hosts(words: str) -> tuple[str, ...]:
    """Separated by blanks."""
    found = tuple(words.lower().split())
    for word in found:
        if not _HOST_NAME.fullmatch(word):
            raise RampgateError(
                f"RAMPGATE_HOSTS: {word!r} is no host name, must be like mlops.example or mlops.example:8443"
            )
    return found


def _ports(env: Mapping[str, str]) -> Ports:
    """`RAMPGATE_<NAME>_PORT`, or an offset from `RAMPGATE_PORT_BASE` where that is set."""
    defaults = {
        "dagster": 3000, "mlflow": 5000, "evidently": 8001, "reports": 8002,
        "gateway": 9000, "predictors": 9100,
    }  # fmt: skip
    base = env.get("RAMPGATE_PORT_BASE")
    if base is not None:
        defaults = {name: int(base) + i for i, name in enumerate(defaults)}
    return Ports(
        **{name: int(env.get(f"RAMPGATE_{name.upper()}_PORT", port)) for name, port in defaults.items()}
    )


# The certificate authorities that HTTPS servers are checked against.


@cache
def certificates() -> ssl.SSLContext:
    """Read once per process: a new client would read them again, in 15 to 50 ms of processor time.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` name others than certifi's.
    """
    return httpx.create_ssl_context()


# Addresses may hold secrets. Whatever shows one, a page, a log line or an error, shows it without.


HIDDEN = "***"

_IN_AUTHORITY = re.compile(r"(://[^:/@\s]*):\S*@")

_ALONE = re.compile(r"(https?://)[^:/@\s]+@", re.IGNORECASE)
"""A web service takes a token for a user; the user of a database is none."""

_IN_PARAMETER = re.compile(
    r"(\b\w*(?:passw(?:or)?d|pwd|token|secret|credential|access_key|signature)\w*\s*=\s*)"
    r"('(?:[^'\\]|\\.|'')*'|(?:[^\s&'\\]|\\.)(?:[^\s&\\]|\\.)*)",
    re.IGNORECASE,
)


def shown(address: str) -> str:
    """The address with `***` in place of each secret: of a URL's user, of its query, or of a DSN."""
    address = _ALONE.sub(rf"\1{HIDDEN}@", _IN_AUTHORITY.sub(rf"\1:{HIDDEN}@", address))
    return _IN_PARAMETER.sub(rf"\1{HIDDEN}", address)
