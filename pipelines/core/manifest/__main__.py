"""Check manifests: `python -m pipelines.core.manifest [folder]` prints every mistake and exits 1 if there is one."""

import sys
from pathlib import Path

from pipelines.core.manifest.load import load_models


def main(folder: Path) -> int:
    """Print the models that can be read and the mistakes in the others."""
    catalogue = load_models(folder)
    for model in catalogue.models:
        print(f"{model.name}: good ({model.digest[:12]})")
    for error in catalogue.errors:
        print(error, file=sys.stderr)
    return 1 if catalogue.errors else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "serving_manifests")))
