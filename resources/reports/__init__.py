"""One page per rollout: what happened, what was decided, and why."""

from resources.reports.report import report_name, rollout_story, write_report

__all__ = ["report_name", "rollout_story", "write_report"]
