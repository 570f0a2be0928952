"""The calculator for people without history, and the examples of docs/experiments.md."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines.experiments.__main__ import main

DOCS = Path(__file__).resolve().parents[2] / "docs" / "experiments.md"

_EXAMPLE = re.compile(r"```console\n\$ python -m pipelines\.experiments (.*?)\n((?:[^`]|\n)*?)```")

MANIFEST = "--manifest serving_manifests/churn/rollout.yaml"

KNOWN = "--known revenue=4.20,9 --known errors=0.1% --known slow=1%"

PAGE = (DOCS.parent / "adding-a-model.md").read_text()

EXAMPLES = _EXAMPLE.findall(DOCS.read_text().replace("\\\n", " "))


@pytest.fixture(autouse=True)
def minimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository with the model of the page on adding one."""
    service, rollout = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    folder = tmp_path / "serving_manifests" / "churn"
    folder.mkdir(parents=True)
    (folder / "inferenceservice.yaml").write_text(service)
    (folder / "rollout.yaml").write_text(rollout)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("arguments", "printed"), EXAMPLES, ids=[a[:40] for a, _ in EXAMPLES])
def test_the_documented_examples_print_what_they_say(
    arguments: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(shlex.split(arguments))
    assert capsys.readouterr().out.strip() == printed.strip()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
    assert any("--manifest" in arguments for arguments, _ in EXAMPLES)


def test_a_fixed_look_needs_what_the_textbook_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Spotify's sample size: mean 4.56, variance 2.13, 1 % relative, two-sided: 32,160 units."""
    code = main(
        shlex.split(
            "--type mean --baseline 4.56 --variance 2.13 --mde 1% --per-day 100000 --shares 50 --method fixed"
        )
    )
    units = [int(n.replace(",", "")) for n in capsys.readouterr().out.splitlines()[1].split()[1:3]]
    assert code == 0
    assert sum(units) == pytest.approx(32160, rel=2e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--type mean --baseline 4 --mde 5% --per-day 100", "variance"),
        ("--type proportion --baseline 1.5 --mde 5% --per-day 100", "baseline rate"),
        ("--type proportion --baseline 0.1 --mde 0% --per-day 100", "mde"),
        ("--type proportion --baseline 0.1 --mde 5% --per-day 0", "units_per_day"),
        ("--type proportion --baseline 0.1 --mde 5% --per-day 100 --shares 100", "nothing would be compared"),
        (
            "--type mean --baseline 4 --mde 5% --variance 0 --per-day 100",
            "equal values are within any margin",
        ),
        ("--type mean --mde 5% --variance 1 --per-day 100", "--baseline"),
        ("--type mean --baseline 4 --variance 1 --per-day 100", "either --mde or --margin"),
        ("--manifest nowhere --per-day 100", "nowhere"),
        (f"{MANIFEST} --per-day 100", "--known is missing for revenue, errors, slow"),
        (
            f"{MANIFEST} --per-day 100 --known revenu=4,2",
            "no metric 'revenu', the manifest has revenue, errors, slow",
        ),
        (f"{MANIFEST} --per-day 100 --known revenue=4", "value and standard deviation"),
        (f"{MANIFEST} --per-day 100 --known revenue=x", "expected a number"),
        (f"{MANIFEST} --per-day 100 --known errors=20", "one rate from 0 to 1"),
        (f"{MANIFEST} --per-day 0 {KNOWN}", "--per-day"),
    ],
)
def test_a_mistake_is_named(arguments: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(arguments)) == 2
    assert named in capsys.readouterr().err


def test_an_underpowered_plan_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(shlex.split("--type proportion --baseline 0.01 --mde 2% --per-day 500"))
    assert code == 1
    assert "WARNING: metric: underpowered" in capsys.readouterr().out


def test_a_plan_of_the_whole_decision_that_cannot_work_is_an_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(shlex.split(f"{MANIFEST} --per-day 20000 {KNOWN}"))
    told = capsys.readouterr().out
    assert code == 1
    assert "WARNING: A version that is as good as the champion is promoted within 14 days in 0 %" in told
    assert "drift.window: 8h" in told
