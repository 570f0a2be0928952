"""Secrets stay with the parts that need them, and what is written with its owner. Real parts: `test_whole_platform.py`."""

import os
import subprocess
from pathlib import Path

import pytest

from pipelines.platform.configuration import supervisord_file, write_configuration
from pipelines.platform.control import PlatformError, private_home
from pipelines.platform.parts import parts
from resources.environment import ALLOWED, PREDICTOR, allowed, confined
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
