"""The calculator for people without history, and the examples of docs/experiments.md."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines.experiments.__main__ import main

DOCS = Path(__file__).resolve().parents[2] / "docs" / "experiments.md"

_EXAMPLE = re.compile(r"```console\n\$ python -m pipelines\.experiments (.*?)\n((?:[^`]|\n)*?)```")

EXAMPLES = _EXAMPLE.findall(DOCS.read_text().replace("\\\n", " "))


@pytest.mark.parametrize(("arguments", "printed"), EXAMPLES, ids=[a[:40] for a, _ in EXAMPLES])
def test_the_documented_examples_print_what_they_say(
    arguments: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(shlex.split(arguments))
    assert capsys.readouterr().out.strip() == printed.strip()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


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
    ],
)
def test_a_mistake_is_named(arguments: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(arguments)) == 2
    assert named in capsys.readouterr().err


def test_an_underpowered_plan_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(shlex.split("--type proportion --baseline 0.01 --mde 2% --per-day 500"))
    assert code == 1
    assert "WARNING: metric: underpowered" in capsys.readouterr().out
