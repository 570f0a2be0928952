"""Where a lake is: its catalogue and its data, as DuckDB wants to hear it."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.errors import LakeError
from resources.lake.names import literal
from resources.lake.writer_lock import postgres_writer_lock, writer_lock

_SQLITE = "sqlite:"
_POSTGRES = "postgres:"
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Location:
    """A catalogue (`sqlite:<path>` or `postgres:<dsn>`) and the place of the Parquet files (path or `s3://`)."""

    catalog: str
    data_path: str

    def __post_init__(self) -> None:
        if not self.catalog.startswith((_SQLITE, _POSTGRES)):
            kind = self.catalog.partition(":")[0]
            raise LakeError(f"lake catalogue of kind {kind!r}, must be sqlite:<path> or postgres:<dsn>")

    @property
    def sqlite_file(self) -> Path | None:
        """The catalogue's file, if it is one."""
        return Path(self.catalog.removeprefix(_SQLITE)) if self.catalog.startswith(_SQLITE) else None

    def writing(self) -> AbstractContextManager[None]:
        """Waits until no other writer is at work, and keeps others waiting."""
        if self.sqlite_file is None:
            return postgres_writer_lock(self.catalog.removeprefix(_POSTGRES), timeout=_PATIENCE_SECONDS)
        return writer_lock(Path(f"{self.sqlite_file}.writer"), timeout=_PATIENCE_SECONDS)

    @property
    def on_s3(self) -> bool:
        return self.data_path.startswith("s3://")

    @property
    def extensions(self) -> tuple[str, ...]:
        """The DuckDB extensions that this lake needs, in load order."""
        catalog = "sqlite_scanner" if self.sqlite_file else "postgres_scanner"
        return ("ducklake", catalog, "httpfs") if self.on_s3 else ("ducklake", catalog)

    def prepare(self) -> None:
        """Create the local directories, and an empty catalogue (which is a valid SQLite database)."""
        if self.sqlite_file is not None:
            self.sqlite_file.parent.mkdir(parents=True, exist_ok=True)
            self.sqlite_file.touch()
        if not self.on_s3:
            Path(self.data_path).mkdir(parents=True, exist_ok=True)

    def attach_statement(self) -> str:
        """ATTACH ... AS lake.

        Data inlining stays off: with a SQLite catalogue it is slower than small Parquet files, and text inside
        structs loses its apostrophes (DuckLake 1.5.5).
        """
        options = [f"DATA_PATH {literal(self.data_path)}", "DATA_INLINING_ROW_LIMIT 0"]
        if self.sqlite_file is not None:
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 30000"]
        return f"ATTACH {literal('ducklake:' + self.catalog)} AS lake ({', '.join(options)})"

    def redact(self, message: str) -> str:
        """`message` without the catalogue's DSN, which may hold a password."""
        if self.sqlite_file is not None:
            return message
        dsn = self.catalog.removeprefix(_POSTGRES)
        return message.replace(dsn, "<dsn>") if dsn else message


def s3_secret_statement(env: Mapping[str, str] | None = None) -> str:
    """CREATE SECRET from the usual `AWS_*` variables (AWS_ENDPOINT_URL for anything but Amazon)."""
    env = os.environ if env is None else env
    settings = {
        "KEY_ID": env.get("AWS_ACCESS_KEY_ID"),
        "SECRET": env.get("AWS_SECRET_ACCESS_KEY"),
        "SESSION_TOKEN": env.get("AWS_SESSION_TOKEN"),
        "REGION": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"),
    }
    parts = ["TYPE s3", *(f"{key} {literal(value)}" for key, value in settings.items() if value)]
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if endpoint:
        url = urlsplit(endpoint)
        use_ssl = "true" if url.scheme == "https" else "false"
        parts += [f"ENDPOINT {literal(url.netloc)}", "URL_STYLE 'path'", f"USE_SSL {use_ssl}"]
    return f"CREATE OR REPLACE SECRET lake_data ({', '.join(parts)})"
