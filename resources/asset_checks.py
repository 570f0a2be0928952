"""A verdict as Dagster shows it, with one meaning for every asset check."""

from collections.abc import Mapping
from typing import assert_never

import dagster as dg

from pipelines.rollout.evidence import OnFail, Verdict


def check_result(
    name: str,
    verdict: Verdict,
    reason: str,
    *,
    on_fail: OnFail,
    more: Mapping[str, str | int] | None = None,
) -> dg.AssetCheckResult:
    """Green for pass alone. Unknown is yellow, as is what only warns when it fails; any other failure is red."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=verdict is Verdict.PASS,
        severity=_severity(verdict, on_fail),
        description=reason,
        metadata={"verdict": str(verdict), "reason": reason} | dict(more or {}),
    )


def _severity(verdict: Verdict, on_fail: OnFail) -> dg.AssetCheckSeverity:
    match verdict:
        case Verdict.PASS | Verdict.UNKNOWN:
            return dg.AssetCheckSeverity.WARN
        case Verdict.FAIL:
            return dg.AssetCheckSeverity.WARN if on_fail is OnFail.WARN else dg.AssetCheckSeverity.ERROR
        case _:
            assert_never(verdict)
