"""Writes a rollout's report: `<home>/reports/<rollout id>.html`."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipelines.core.errors import CommandRefused
from pipelines.core.manifest.load import Catalogue
from pipelines.core.manifest.model import RolloutManifest
from pipelines.reports.page import Link, page
from pipelines.reports.slices import read_examples, slices_told
from pipelines.reports.story import Story, read_story
from pipelines.rollouts.harm_budget import harm_boundary
from pipelines.rollouts.naming import slug
from pipelines.rollouts.serving_metrics import serving_metrics
from resources.files import write_whole
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger
from resources.links import Links

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class Reports:
    """What a rollout's report is written from, and where to."""

    folder: Path
    """`<home>/reports`; drift reports and Data Docs lie there, too."""
    ledger: Ledger
    lake: Lake
    """Where the page's examples are read; nothing else of it is."""
    links: Links
    catalogue: Catalogue


def report_name(rollout_id: str) -> str:
    """The report's file name. Raises CommandRefused for an id that is no rollout's."""
    if not _SAFE.fullmatch(rollout_id):
        raise CommandRefused(f"rollout id is {rollout_id!r}, expected <model>-v<version>-<8 hex>")
    return f"{rollout_id}.html"


def write_report(reports: Reports, rollout_id: str) -> Path:
    """Write the report from the ledger as it is now; it may be written again at any time.

    Raises CommandRefused (no such rollout), CorruptLedger, LedgerError.
    """
    path = reports.folder / report_name(rollout_id)
    return write_story(reports, rollout_story(reports, rollout_id), path)


def write_story(reports: Reports, story: Story, path: Path) -> Path:
    """The page of a story that has been read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(story, _links(reports, story), written=datetime.now(UTC)))
    return path


def rollout_story(reports: Reports, rollout_id: str) -> Story:
    """What the report tells. The manifest adds the guardrails' boundary and the examples, where it still is there."""
    row = next((r for r in reports.ledger.rollouts() if r.rollout_id == rollout_id), None)
    manifest = None if row is None else _manifest(reports, row.model)
    story = read_story(reports.ledger, rollout_id, boundary=None)
    if manifest is None:
        return story
    boundary = harm_boundary(manifest, baking=story.state.promotion is not None)
    told = slices_told(story.looked)
    return replace(
        story,
        boundary=boundary,
        tests={m.name: m.test() for m in serving_metrics(manifest)},
        slices=told,
        examples=read_examples(reports.lake, reports.ledger, manifest, story.state, told),
    )


def _manifest(reports: Reports, model: str) -> RolloutManifest | None:
    return next((m.rollout for m in reports.catalogue.models if m.name == model), None)


def _links(reports: Reports, story: Story) -> list[Link]:
    model, folder = story.state.model, reports.folder
    links = [
        Link("Rollout in Dagster", reports.links.asset(slug(model), "rollout")),
        Link(f"Version {story.state.version} in MLflow", reports.links.version(model, story.state.version)),
    ]
    if (folder / "data_docs" / model / "index.html").exists():
        links.append(Link("Data Docs", reports.links.report("data_docs", model, "index.html")))
    for comparison in ("canary_vs_stable", "current_vs_reference"):
        newest = max((folder / "drift" / model / comparison).glob("[0-9]*.html"), default=None)
        if newest is not None:
            label = f"Drift: {comparison.replace('_', ' ')}"
            links.append(Link(label, reports.links.report("drift", model, comparison, newest.name)))
    return [*links, Link("Evidently", reports.links.evidently_page("/"))]
