"""Says which model folders cannot be read."""

from pathlib import Path

import dagster as dg

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import load_models
from resources.configured import LedgerResource, SettingsResource
from resources.notifier import contained, platform_alert


def manifest_sensor() -> dg.SensorDefinition:
    """Alerts once about each mistake in a manifest; the models that can be read keep running."""
    known = Mistakes()

    @dg.sensor(
        name="manifest_sensor",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reads the model folders again when one has changed, and alerts about mistakes, with file, line, key, value and what is"
            " allowed. A changed manifest takes effect when the code location is reloaded."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, ledger: LedgerResource, settings: SettingsResource
    ) -> dg.SkipReason:
        errors = known.of(settings.get().manifests)
        for error in errors:
            with contained(ledger.get(), context.log, where="alerting about a manifest"):
                platform_alert(ledger.get(), topic="manifest", title="a manifest is wrong", body=str(error))
        return dg.SkipReason("; ".join(map(str, errors)) or "every manifest can be read")

    return sensor


class Mistakes:
    """What is wrong with the manifests; read again only when a file was changed: reading takes 6 ms a model."""

    def __init__(self) -> None:
        self._files: object = None
        self._errors: tuple[ManifestError, ...] = ()

    def of(self, folder: Path) -> tuple[ManifestError, ...]:
        """Of every folder in there."""
        files = _as_they_are(folder)
        if files != self._files:
            self._errors = load_models(folder).errors
            self._files = files
        return self._errors


def _as_they_are(folder: Path) -> object:
    """Name, size and last change of every file."""
    return sorted(
        (path, found.st_size, found.st_mtime_ns) for path in folder.glob("*/*") for found in [path.stat()]
    )
