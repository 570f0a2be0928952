"""Who holds a port, as far as this user may know (Linux)."""

from pathlib import Path

_LISTENING = "0A"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def holder(port: int) -> str:
    """`process 123 (python -m http.server)`, or `another process` where it cannot be told."""
    sockets = {f"socket:[{inode}]" for inode in _listeners(port)}
    for process in Path("/proc").glob("[0-9]*"):
        if sockets & _open_sockets(process):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            return f"process {process.name} ({words.strip()[:120]})"
    return "another process"


def _listeners(port: int) -> set[str]:
    found: set[str] = set()
    for table in _TABLES:
        rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
        found |= {
            row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port
        }
    return found


def _open_sockets(process: Path) -> set[str]:
    """Targets of the descriptors of a process; none if it is gone or somebody else's."""
    try:
        return {_target(link) for link in (process / "fd").iterdir()}
    except OSError:
        return set()


def _target(link: Path) -> str:
    """Where a descriptor leads; nowhere if it was closed meanwhile, as the one that lists them is."""
    try:
        return str(link.readlink())
    except OSError:
        return ""
