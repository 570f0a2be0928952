"""The second line: a process that loads data alone refuses to run what a file says.

The first line judges the artefact before it is deployed (`resources.registry.artefact_policy`). Whatever it did not think of
has to get past this one, in the predictor itself: an audit hook of the interpreter, put there before anything of the
artefact is loaded, which nothing can take away again. It hears every name that an unpickler looks up, whoever asks
(pickle, cloudpickle, joblib, dill, torch, numpy with allow_pickle), and refuses before the name is resolved; a pickle
without names is only numbers and text. It hears marshal (Keras' lambda layers), and imports from the artefact's folder
or from wherever the artefact has Python look.

It is not a sandbox. A fault in a native library that reads data is out of its reach, and where the manifest allows
pickle or custom code, that code can do whatever the process may.
"""

import multiprocessing
import os
import sys
import sysconfig
from collections.abc import Collection, Iterator
from inspect import currentframe
from pathlib import Path
from typing import Any

from pipelines.core.errors import VersionRefused

PICKLE, CLOUDPICKLE, CUSTOM_CODE = "pickle", "cloudpickle", "custom_code"

KINDS = (PICKLE, CLOUDPICKLE, CUSTOM_CODE)
"""The words of the manifest's `artefact.allow`."""

_IMPORTING = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", "<frozen zipimport>")

_INSTALLED = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))

_READS_WHAT_CALLERS_NAME = "/sklearn/feature_extraction/text.py"
"""A vectorizer may take its texts for names of files."""

_WORKERS = (
    f"{Path(multiprocessing.__file__).parent}/",
    f"{sysconfig.get_path('purelib')}/joblib/externals/loky/",
)
"""Where results of this process's own worker processes are read: they are nobody's files."""


def install(artefact: Path, allow: Collection[str]) -> None:
    """From now on, for as long as the process lives, refuse what would run code and is not in `allow`.

    Without pickle and cloudpickle: every class or function out of a pickle, and everything marshalled. With nothing
    allowed: every import from the folder `artefact`, or from a place that is new on `sys.path`, and every file that
    scikit-learn would open because a caller sent its name. What is refused raises `VersionRefused`. Libraries may unpickle files of their own while they are imported, and the process may hear from
    its own workers.
    """
    folders = (f"{_absolute(str(artefact))}/", f"{artefact.resolve()}/")
    known = frozenset(sys.path)
    pickles = not {PICKLE, CLOUDPICKLE}.isdisjoint(allow)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        match event:
            case "pickle.find_class" if not pickles:
                if not _is_ours(folders):
                    raise _refused(f"{arguments[0]}.{arguments[1]} out of a pickle", PICKLE)
            case "marshal.loads" | "marshal.load" if not pickles:
                if not _is_import():
                    raise _refused("code out of marshalled bytes", PICKLE)
            case "open" if not allow:
                caller = next(_callers(), "")
                if caller in _IMPORTING and _is_foreign(arguments[0], folders, known):
                    raise _refused(f"the Python module {arguments[0]}", CUSTOM_CODE)
                if caller.endswith(_READS_WHAT_CALLERS_NAME):
                    raise _refused("a file that a caller named", CUSTOM_CODE)
            case "import" if not allow:  # of an extension module; nobody opens those by way of Python
                if _is_foreign(arguments[1], folders, known):
                    raise _refused(f"the library {arguments[1]}", CUSTOM_CODE)
            case "ctypes.dlopen" if not allow:
                if _is_foreign(arguments[0], folders, known):
                    raise _refused(f"the library {arguments[0]}", CUSTOM_CODE)
            case _:
                pass

    sys.addaudithook(hook)


def _refused(what: str, kind: str) -> VersionRefused:
    return VersionRefused(
        f"loading the model asked for {what}, which can run code; allow it with artefact.allow: [{kind}]"
    )


def _is_import() -> bool:
    return next(_callers(), "") in _IMPORTING


def _is_foreign(path: Any, folders: tuple[str, ...], known: frozenset[str]) -> bool:
    """Whether it lies in the artefact, or where Python did not look before; installed libraries may add places."""
    if not isinstance(path, str) or "/" not in path:  # a library that the system's loader finds
        return False
    place = f"{_absolute(path)}/"
    added = (f"{_absolute(each)}/" for each in sys.path if each not in known)
    return place.startswith((*folders, *(each for each in added if not each.startswith(_INSTALLED))))


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 -- as it is written: installed files may be links


def _is_ours(folders: tuple[str, ...]) -> bool:
    """Whether a worker of this process sent the pickle, or a library reads it while it is being imported."""
    callers = [each for each in _callers() if not each.endswith("/pickle.py")]
    if callers and callers[0].startswith(_WORKERS):
        return True
    importing = next((i for i, each in enumerate(callers) if each in _IMPORTING), None)
    return importing is not None and not any(each.startswith(folders) for each in callers[:importing])


def _callers() -> Iterator[str]:
    """The files of the code that led here, innermost first, apart from this one."""
    frame = currentframe()
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            yield frame.f_code.co_filename
        frame = frame.f_back
