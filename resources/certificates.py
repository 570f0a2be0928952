"""The certificate authorities that HTTPS servers are checked against."""

import ssl
from functools import cache

import httpx


@cache
def certificates() -> ssl.SSLContext:
    """Read once per process: a new client would read them again, in 15 to 50 ms of processor time.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` name others than certifi's.
    """
    return httpx.create_ssl_context()
