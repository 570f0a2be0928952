"""How fast the running platform takes traffic away: from a canary that fails, from one that nobody watches, from a
champion that fails late, and by hand. And how often it does so for nothing.

    python benchmarks/rollback.py [--only boundary watcher false-lapses bake false-undo undo] [--minutes 60] [--out ...]

Writes var/bench/rollback.json. A part that runs again replaces its own rows there and leaves the others. Each part but
`false-undo`, which simulates, starts the platform in a home of its own: Dagster's daemon and code server, Envoy,
supervisord, MLflow. All parts together take some three hours, one of which is the false lapses'.

    boundary      evidence crosses the boundary -> 0 %
    watcher       the watcher is killed, frozen or starved while the canary does harm -> 0 %
    false-lapses  shares taken away although somebody watches, with both cores loaded
    bake          a promoted version begins to fail in its bake -> the previous champion has all traffic
    false-undo    bakes of a harmless version that end in an undo
    undo          by hand: within the bake, and after it
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rollback_parts import bake, boundary, false_lapses, false_undo, undo, watcher
from benchmarks.rollback_parts.rows import NotMeasurable, held
from resources.settings import ROOT

PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "boundary": boundary.rows,
    "watcher": watcher.rows,
    "false-lapses": false_lapses.rows,
    "bake": bake.rows,
    "false-undo": false_undo.rows,
    "undo": undo.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rollbacks", type=int, default=100, help="at the boundary")
    parser.add_argument("--watchers", type=int, default=60, help="shares whose watcher ends, in all")
    parser.add_argument("--minutes", type=float, default=60.0, help="for which false lapses are counted")
    parser.add_argument("--models", type=int, default=30, help="with open rollouts meanwhile")
    parser.add_argument("--bakes", type=int, default=50, help="that harm ends")
    parser.add_argument("--runs", type=int, default=3000, help="simulated bakes of a scenario")
    parser.add_argument("--undos", type=int, default=20, help="by hand, of each kind")
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--fail-share", type=float, default=0.5, help="of a harmful version's answers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "rollback.json")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and the platform with it
    troubles = [trouble for part in given.only if (trouble := measured(part, given))]
    sys.exit("; ".join(troubles) or 0)


def measured(part: str, given: argparse.Namespace) -> str:
    """Run one part and save its rows. Why it came to no end, empty where it did: the others are measured all the same."""
    begun = time.perf_counter()
    try:
        found = [{"part": part, **each} for each in PARTS[part](given)]
    except NotMeasurable as error:
        print(f"-- {part}: {error}", flush=True)
        return f"{part}: {error}"
    save(given.out, part, found)
    for each in found:
        print(f"{each['name']}: {each['ours']:g} {each['unit']}  {held(each)}")
    print(f"-- {part}: {time.perf_counter() - begun:.0f} s", flush=True)
    return ""


def save(out: Path, part: str, found: list[dict[str, Any]]) -> None:
    """In the place of this part's rows of an earlier run."""
    before = json.loads(out.read_text()) if out.exists() else []
    others = [each for each in before if each.get("part") in PARTS and each["part"] != part]
    order = list(PARTS)
    rows = sorted([*others, *found], key=lambda each: order.index(each["part"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
