"""One writer at a time on a catalogue: writers queue instead of losing commit after commit.

It is fairness, not correctness: without it the catalogue itself refuses the second commit.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from pipelines.core.errors import LakeError
from resources.files import lock
from resources.settings import shown

_POSTGRES_KEY = 5_202_611_271
"""Of the advisory lock, in the catalogue's database."""


@contextmanager
def writer_lock(path: Path, *, timeout: float) -> Generator[None]:
    """Hold the lock on `path`; the kernel drops it with the process, whatever killed it.

    Raises `LakeError` after `timeout` seconds.
    """
    with lock(path, wait=timedelta(seconds=timeout)) as held:
        if not held:
            raise LakeError(f"another process has been writing to the lake for {timeout:.0f} s ({path})")
        yield


@contextmanager
def postgres_writer_lock(dsn: str, *, timeout: float) -> Generator[None]:
    """Hold an advisory lock of the catalogue's database; the server drops it with the session, whatever ended that.

    Raises `LakeError` after `timeout` seconds, and where the database does not answer.
    """
    import psycopg

    with ExitStack() as stack:
        try:
            session = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            session.execute("SELECT set_config('lock_timeout', %s, false)", (f"{timeout * 1000:.0f}",))
            session.execute("SELECT pg_advisory_lock(%s)", (_POSTGRES_KEY,))
        except psycopg.errors.LockNotAvailable as error:
            raise LakeError(f"another process has been writing to the lake for {timeout:.0f} s") from error
        except psycopg.OperationalError as error:
            raise LakeError(f"the lake's catalogue does not answer: {shown(str(error))}") from error
        except psycopg.ProgrammingError:
            # Without its cause, whose text may quote the whole address, and runs keep that.
            raise LakeError(
                "RAMPGATE_LAKE_CATALOG cannot be read, must be postgres:<dsn> as libpq has it"
            ) from None
        yield
