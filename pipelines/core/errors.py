"""The exceptions of Rampgate, one root.

RampgateError
 ├─ ManifestError       a model's YAML is wrong: names file, line, key, value and what is allowed
 ├─ VersionRefused      a model version failed validation before any traffic
 ├─ ServingError        the serving backend could not do what was asked, or could not be asked
 │   ├─ VersionFailed   the version itself failed: it answered with an error, or does not come up
 │   └─ StillInTraffic  an emergency rollback could not take the traffic away; it is recorded and tried again
 ├─ RegistryError       the model registry could not be reached or gave something unusable
 │   └─ NotInRegistry   it answered, and what was asked for does not exist: asking again cannot help
 ├─ LakeError           the lake could not be read or written
 │   └─ SignatureConflict   a version's columns do not fit what the lake holds of earlier versions
 ├─ LedgerError         the ledger could not be read or written
 │   └─ LedgerConflict  somebody else wrote that (rollout_id, seq) first: re-read and decide again
 ├─ CorruptLedger       events that do not fold into a state
 ├─ CommandRefused      a rollout cannot be started or ordered to do that now
 │   └─ Withdrawn       nobody wants the version to be started any more
 └─ NotMeasured         a metric could not be measured; evidence built on it is unknown
"""


class RampgateError(Exception):
    """Root of everything Rampgate raises on purpose."""


class ManifestError(RampgateError):
    """A manifest is wrong; the message names file, line, key, value and what is allowed."""


class VersionRefused(RampgateError):
    """A model version failed validation before it got any traffic."""


class ServingError(RampgateError):
    """The serving backend could not do what was asked, or could not be asked: this says nothing about a version."""


class VersionFailed(ServingError):
    """The version itself failed: its own answer is an error or no prediction, or its process does not come up."""


class StillInTraffic(ServingError):
    """An emergency rollback could not take the traffic away; it is recorded and tried again."""


class RegistryError(RampgateError):
    """The model registry could not be reached, or holds something unusable."""


class NotInRegistry(RegistryError):
    """The registry answered, and what was asked for does not exist: repeating the call cannot help."""


class LakeError(RampgateError):
    """The lake could not be read or written."""


class SignatureConflict(LakeError):
    """A version's column has another type than the same column of earlier versions: says nothing about the lake."""


class LedgerError(RampgateError):
    """The ledger could not be read or written."""


class LedgerConflict(LedgerError):
    """Another controller wrote this (rollout_id, seq) first: re-read and decide again."""


class CorruptLedger(RampgateError):
    """Events that do not fold into a rollout: damaged, or written by a newer version."""


class CommandRefused(RampgateError):
    """A rollout cannot be started, or ordered to do that, in the state it is in."""


class Withdrawn(CommandRefused):
    """The version has lost the alias `challenger` before it was started."""


class NotMeasured(RampgateError):
    """A metric could not be measured; evidence that needs it is unknown, never fail."""
