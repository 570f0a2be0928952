"""`python -m pipelines.reports.replay [home or ledger URL]`: takes every decision of a ledger again.

Prints one line per rollout and every decision that comes out differently; the exit code is 1 when one does, or when
a rollout's events cannot be read.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from pipelines.core.errors import CorruptLedger, LedgerError
from pipelines.core.rollout.decide import Mismatch, decisions, replay
from resources.ledger.ledger import Ledger
from resources.settings import Settings


class Replayed(NamedTuple):
    """One rollout, replayed."""

    rollout_id: str
    decisions: int
    mismatches: tuple[Mismatch, ...]
    problem: str = ""
    """Why the events could not be read or folded; empty when they could."""

    @property
    def is_same(self) -> bool:
        return not self.mismatches and not self.problem


def replay_ledger(ledger: Ledger) -> tuple[Replayed, ...]:
    """Every rollout of the ledger; one that cannot be read does not keep the others from being replayed."""
    return tuple(_replayed(ledger, row.rollout_id) for row in ledger.rollouts())


def ledger_url(place: str) -> str:
    """A ledger URL as it is; a home directory's or a file's SQLite URL. Raises LedgerError where there is no file."""
    if "://" in place:
        return place
    path = Path(place).resolve()
    file = path / "ledger.db" if path.is_dir() else path
    if not file.is_file():
        raise LedgerError(f"{file} is not there; expected a home directory, a ledger's file or its URL")
    return f"sqlite:///{file}"


def main(arguments: list[str]) -> int:
    """Print the result and give the exit code; 2 where there is no such ledger."""
    place = arguments[0] if arguments else Settings.from_environment().ledger_url
    try:
        results = replay_ledger(Ledger(ledger_url(place)))
    except LedgerError as error:
        print(error, file=sys.stderr)
        return 2
    for result in results:
        print("\n".join(_lines(result)))
    total = sum(result.decisions for result in results)
    differ = sum(len(result.mismatches) for result in results)
    print(f"{len(results)} rollouts, {total} decisions, {differ} come out differently")
    return 0 if all(result.is_same for result in results) else 1


def _replayed(ledger: Ledger, rollout_id: str) -> Replayed:
    try:
        events = ledger.events(rollout_id)
        return Replayed(rollout_id, decisions(events), tuple(replay(events)))
    except CorruptLedger as error:
        return Replayed(rollout_id, 0, (), str(error))


def _lines(result: Replayed) -> list[str]:
    if result.problem:
        return [f"{result.rollout_id}: cannot be replayed: {result.problem}"]
    verdict = "the same bytes" if result.is_same else f"{len(result.mismatches)} DIFFER"
    lines = [f"{result.rollout_id}: {result.decisions} decisions, {verdict}"]
    for mismatch in result.mismatches:
        lines += [
            f"  seq {mismatch.seq} at {mismatch.at.isoformat()}",
            f"    recorded {mismatch.recorded}",
            f"    replayed {mismatch.replayed}",
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
