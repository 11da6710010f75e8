"""Every error that the toolkit raises on purpose.

    QPCError
    ├── EncodingError (ValueError)    a pixel that cannot be amplitude-encoded
    ├── AnsatzError (ValueError)      an ansatz that is not allowed
    ├── EngineError                   an engine that cannot do it, or whose backend failed
    │   ├── BackendError (ValueError)   a backend that cannot carry the circuit, or no such backend
    │   │   └── PatchesError              it has not so many patches
    │   ├── NotISAError (ValueError)    a circuit that the backend cannot run as it stands
    │   ├── FitFailed                   directions that an encoder cannot prepare well enough
    │   ├── BudgetError                 what is to be sent would cost more than was allowed
    │   ├── FetchError                  a result could not be fetched; its job may be well
    │   ├── JobRefused                  a job was not taken: there is none
    │   ├── JobDeferred                 a job was not taken for now: there is none
    │   ├── JobUnclear                  a job may have been taken or not
    │   ├── JobFailed                   a job failed for good; its run can go on without it
    │   └── SessionEnded                a batch or session takes no more jobs
    ├── ResultsPending                results of a durable run that are not there yet
    ├── LedgerError                   the ledger of durable runs cannot be read or written
    │   ├── LedgerBusyError             another process kept it locked; trying again is safe
    │   ├── LedgerConflictError         it holds something else than what is asked or written
    │   ├── LedgerCorruptError          what it stored is not what was written
    │   └── LedgerVersionError          it was made by another version of this toolkit
    ├── DataError (ValueError)        a data set that is missing or corrupt
    ├── CheckpointError (ValueError)  a checkpoint that is corrupt or of another network
    ├── ExperimentError (ValueError)  an experiment that is described wrongly, or none of that name
    ├── NoiseError (ValueError)       noise that is described wrongly, or a snapshot of none
    ├── StudyError                    a noise study that cannot go on; what it finished is kept
    └── MissingExtra (ImportError)    an extra of the package that is not installed

A message says what was expected, what came, where, and what to do. Plain `ValueError` and
`TypeError` are kept for arguments that are wrong in themselves, as in torch.
"""


class QPCError(Exception):
    """Base class of all errors of this toolkit."""


class EncodingError(QPCError, ValueError):
    """A pixel cannot be amplitude-encoded.

    Args:
        message: what is wrong.
        pixel: index of the pixel in the (N, C) array; None when unpickled.
    """

    def __init__(self, message: str, pixel: int | None = None) -> None:
        super().__init__(message)
        self.pixel = pixel


class AnsatzError(QPCError, ValueError):
    """A circuit is not allowed as an ansatz, or no ansatz has that name."""


class EngineError(QPCError):
    """An engine cannot do what was asked of it, or its backend failed."""


class BackendError(EngineError, ValueError):
    """A backend is too small, not connected or not healthy enough, or no backend has that name."""


class PatchesError(BackendError):
    """A backend has not so many disjoint patches for a circuit as were asked for."""


class NotISAError(EngineError, ValueError):
    """A circuit uses an instruction, a qubit or an angle that the backend does not support."""


class FitFailed(EngineError):
    """An encoder's fit is not good enough for some directions; nothing was sent.

    Args:
        message: how bad it is.
        num_failed: directions.
    """

    def __init__(self, message: str, num_failed: int = 0) -> None:
        super().__init__(message)
        self.num_failed = num_failed


class BudgetError(EngineError):
    """Sending would cost more QPU time than was allowed; nothing was sent."""


class FetchError(EngineError):
    """A job's result could not be fetched; the job itself may be well, and is not cancelled."""


class JobRefused(EngineError):
    """A service has certainly not taken a job, and will not take it as it is."""


class JobDeferred(EngineError):
    """A service has certainly not taken a job, and may take the same later.

    Args:
        message: why.
        is_rate_limit: whether too much was sent within a minute.
    """

    def __init__(self, message: str, is_rate_limit: bool = False) -> None:
        super().__init__(message)
        self.is_rate_limit = is_rate_limit


class JobUnclear(EngineError):
    """A service may have taken a job or not: look for its tag before it is sent again."""


class JobFailed(EngineError):
    """A job of a durable run failed, and is not to be repeated by itself."""


class ResultsPending(QPCError):
    """Results of a durable run are not there yet: run the same again later."""


class SessionEnded(EngineError):
    """A batch or session takes no more jobs; the job was not taken."""


class LedgerError(QPCError):
    """The ledger of durable runs cannot be read or written, or does not hold what was asked for."""


class LedgerBusyError(LedgerError):
    """Another process kept the ledger locked for too long; nothing was written."""


class LedgerConflictError(LedgerError):
    """What is to be written contradicts what the ledger holds; nothing was written."""


class LedgerCorruptError(LedgerError):
    """Stored bytes do not have the checksum that was stored with them."""


class LedgerVersionError(LedgerError):
    """The ledger was made by another version of this toolkit."""


class DataError(QPCError, ValueError):
    """A data set is missing or corrupt."""


class CheckpointError(QPCError, ValueError):
    """A checkpoint is corrupt or does not fit the network."""


class ExperimentError(QPCError, ValueError):
    """An experiment is described wrongly, or none has that name."""


class NoiseError(QPCError, ValueError):
    """Noise is described wrongly, in a file or in arguments, or a device tells none."""


class StudyError(QPCError):
    """A noise study cannot go on, or some of its cells failed; what was finished is kept."""


class MissingExtra(QPCError, ImportError):
    """What was asked for needs an extra of the package that is not installed."""
