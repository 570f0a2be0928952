"""Who may post as which model: a token for each, made from one key that the sink and rollouts alone know."""

import hashlib
import hmac
from urllib.parse import unquote, urlsplit, urlunsplit

from pipelines.core.errors import ServingError


def model_token(key: str, model: str) -> str:
    """The token with which events of this model are posted: 64 hexadecimal digits, which say nothing of the key."""
    return hmac.new(key.encode(), f"rampgate-sink:{model}".encode(), hashlib.sha256).hexdigest()


def is_token(given: str, model: str, *, key: str, before: str = "") -> bool:
    """Whether `given` is this model's token, in a time that does not depend on how much of it is right.

    While a key is replaced, what was made from the one before it is taken, too, and that key itself, which the
    loggers of every model shared once.
    """
    good = [model_token(key, model)]
    good += [model_token(before, model), before] if before else []
    return sum(hmac.compare_digest(given.encode(), each.encode()) for each in good) > 0


def url_for(url: str, model: str) -> str:
    """The sink's address for one model's logger: the key in it, as a password, gives way to the model's token.

    An address without a password stays as it is. Raises ServingError where it is no address; the message does not
    repeat it.
    """
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError as error:
        raise ServingError("RAMPGATE_SINK_URL is no URL; must be http://log:<token>@<host>/") from error
    if not password:
        return url
    host = parts.netloc.rpartition("@")[2]
    token = model_token(unquote(password), model)
    return urlunsplit(parts._replace(netloc=f"{parts.username or 'log'}:{token}@{host}"))
