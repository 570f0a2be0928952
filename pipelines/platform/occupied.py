"""Who holds a port, as far as this user may know."""

import psutil


def holder(port: int) -> str:
    """`process 123 (python -m http.server)`, or `another process` where it cannot be told."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                words = " ".join(psutil.Process(connection.pid).cmdline())
                return f"process {connection.pid} ({words.strip()[:120]})"
    except psutil.Error:  # ended meanwhile, or not for this user to know
        return "another process"
    return "another process"
