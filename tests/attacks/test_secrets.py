"""Secrets stay with the parts that need them, and what is written with its owner. Real parts: `test_whole_platform.py`."""

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.core.errors import LedgerError, RampgateError
from pipelines.monitoring.loading import fetch_from_stores
from pipelines.platform.configuration import supervisord_file, write_configuration
from pipelines.platform.control import PlatformError, private_home
from pipelines.platform.parts import parts
from resources.environment import ALLOWED, PREDICTOR, allowed, confined
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger
from resources.notifier import in_words
from resources.registry.client import mlflow_calls
from resources.registry.registry import Registry
from resources.serving.kserve.prometheus import Prometheus
from resources.settings import Settings

SECRETS = {
    "RAMPGATE_ALERT_URLS": "mailto://user:password@example",
    "RAMPGATE_ALERTS_TEAM": "slack://token",
    "RAMPGATE_LEDGER_URL": "postgresql://user:password@host/database",
    "RAMPGATE_LAKE_CATALOG": "postgres:password=x",
    "RAMPGATE_SINK_TOKEN": "token",
    "RAMPGATE_GATEWAY_TOKEN": "token",
    "RAMPGATE_PROMETHEUS_TOKEN": "token",
    "MLFLOW_TRACKING_TOKEN": "token",
    "MLFLOW_TRACKING_PASSWORD": "password",
    "MLFLOW_TRACKING_URI": "http://user:password@host",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "key",
    "AWS_SESSION_TOKEN": "key",
    "KUBECONFIG": "/root/.kube/config",
    "HTTPS_PROXY": "http://user:password@proxy",
    "SLACK_TOKEN": "token",
    "PGPASSWORD": "password",
    "NVIDIA_API_KEY": "key",
    "TF_VAR_password": "password",
    "TF_TOKEN_app_terraform_io": "token",
}

NEEDS = {"code": set(SECRETS), "runs": set(SECRETS)}

NEEDS["watch"] = {name for name in SECRETS if name.startswith("RAMPGATE_")} | {"PGPASSWORD", "HTTPS_PROXY"}


def test_the_list_is_of_the_parts_that_there_are() -> None:
    names = {part.name for part in parts(Settings.from_environment({}))}
    assert set(ALLOWED) == names | {PREDICTOR}


@pytest.mark.parametrize("part", [*ALLOWED, "unknown"])
def test_a_part_finds_what_it_reads_and_no_secret_of_another(part: str) -> None:
    plain = {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC", "PYTHONPATH": "x", "RAMPGATE_DAGSTER_PORT": "1"}
    if part == PREDICTOR:
        plain |= {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all", "TF_CPP_MIN_LOG_LEVEL": "2"}
    found = allowed(part, SECRETS | plain)
    assert found.items() >= plain.items()
    assert set(found) & set(SECRETS) == NEEDS.get(part, set())


def test_a_program_has_what_is_allowed_and_what_was_named_and_nothing_else() -> None:
    command = [*confined(PREDICTOR, ["OWN"]), "/usr/bin/env"]
    given = SECRETS | {"OWN": "a b", "PATH": os.environ["PATH"], "LD_PRELOAD_": "x"}
    said = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    names = {line.partition("=")[0] for line in said.splitlines()}
    assert names - {"LC_CTYPE"} == {"OWN", "PATH"}, "Python itself adds the encoding where no locale is set"


PASSWORD = "a-pass"

ADDRESSES: dict[str, Callable[[Path], object]] = {
    "a registry that is away": lambda home: registry_at(f"http://me:{PASSWORD}@127.0.0.1:1", home),
    "a registry that takes tokens": lambda home: registry_at(f"http://{PASSWORD}@127.0.0.1:1", home),
    "a registry with another scheme": lambda home: registry_at(f"postgresql://me:{PASSWORD}@h/d", home),
    "a registry at no port": lambda home: registry_at(f"http://me:{PASSWORD}@[::1", home),
    "mlflow's own words": lambda home: mlflow_says(f"http://me:{PASSWORD}@127.0.0.1:1"),
    "a ledger that is away": lambda home: Ledger(f"postgresql://me:{PASSWORD}@127.0.0.1:1/d").rollouts(),
    "a ledger with a parameter": lambda home: Ledger(f"postgresql://127.0.0.1:1/d?password={PASSWORD}").rollouts(),
    "a ledger at no port": lambda home: Ledger(f"postgresql://me:a@127.0.0.1:{PASSWORD}/d"),
    "a lake that is away": lambda home: catalogue_at(f"host=127.0.0.1 port=1 password={PASSWORD}", home),
    "a lake at no address": lambda home: catalogue_at(f"postgresql://me:{PASSWORD}@[::1/d", home),
    "a lake with a slip": lambda home: catalogue_at(f"host=127.0.0.1 port=1 password='{PASSWORD}", home),
    "a Prometheus that is away": lambda home: Prometheus(url=f"http://me:{PASSWORD}@127.0.0.1:1", timeout=1)._query(
        "up", datetime.now(UTC)
    ),
    "a store that is none": lambda home: fetch_from_stores(
        Lake("sqlite:a", "b", home), settings_with_store(f"https://me:{PASSWORD}@h"), "m", home
    ),
}  # fmt: skip


def registry_at(uri: str, home: Path) -> None:
    Registry(uri, cache=home, attempts=1).version_with_alias("m", "champion")


def mlflow_says(uri: str) -> None:
    with mlflow_calls(uri, "asking"):
        raise OSError(f"API request to {uri}/api failed")


def catalogue_at(dsn: str, home: Path) -> None:
    with Lake(f"postgres:{dsn}", str(home / "data"), home).connect():
        pass


def settings_with_store(url: str) -> Settings:
    return Settings.from_environment({"RAMPGATE_PREDICTION_LOG_STORE": url})


@pytest.mark.parametrize("which", ADDRESSES)
def test_no_error_about_an_address_nor_its_cause_tells_the_secret_in_it(which: str, tmp_path: Path) -> None:
    """Runs keep an error with all its causes, alerts and the ledger its words."""
    with pytest.raises(RampgateError) as failed:
        ADDRESSES[which](tmp_path)
    told, error = in_words(failed.value), failed.value
    while error is not None:
        told, error = (
            told + str(error),
            error.__cause__ or (None if error.__suppress_context__ else error.__context__),
        )
    assert PASSWORD not in told


def test_words_of_our_own_that_quote_an_address_are_told_without_its_secret() -> None:
    assert (
        in_words(LedgerError(f"no answer of https://me:{PASSWORD}@h"))
        == "LedgerError: no answer of https://me:***@h"
    )


def home_with(folder: Path, mode: int, *entries: str) -> Settings:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    for entry in entries:
        (home / entry).mkdir()
    home.chmod(mode)
    return Settings.from_environment({"RAMPGATE_HOME": str(home)})


def test_a_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    said: list[str] = []
    settings = Settings.from_environment({"RAMPGATE_HOME": str(tmp_path / "home")})
    private_home(settings, said.append)
    assert (settings.home.stat().st_mode & 0o777, said) == (0o700, [])


@pytest.mark.parametrize("entries", [(), ("supervisor", "more")])
@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_home_that_is_open_is_closed_and_told(tmp_path: Path, mode: int, entries: tuple[str, ...]) -> None:
    said: list[str] = []
    settings = home_with(tmp_path, mode, *entries)
    private_home(settings, said.append)
    assert settings.home.stat().st_mode & 0o777 == 0o700
    assert said == [
        f"{settings.home} was open to other users (mode {mode:04o}): it is yours alone now (0700)"
    ]


def test_a_folder_with_other_things_is_not_closed_to_those_who_use_it(tmp_path: Path) -> None:
    settings = home_with(tmp_path, 0o755, "somebody's")
    with pytest.raises(PlatformError, match=r"RAMPGATE_HOME .*home is open to other users \(mode 0755\)"):
        private_home(settings, print)
    assert settings.home.stat().st_mode & 0o777 == 0o755


def test_the_watch_finds_the_channels_that_manifests_name_and_no_other_part_does(tmp_path: Path) -> None:
    settings = home_with(tmp_path, 0o700)
    write_configuration(settings, parts(settings), ["SLACK_TOKEN"])
    commands = [
        line for line in supervisord_file(settings).read_text().splitlines() if "environment.py" in line
    ]
    assert [line.split()[3:5] for line in commands if "SLACK_TOKEN" in line] == [["watch", "SLACK_TOKEN"]]
