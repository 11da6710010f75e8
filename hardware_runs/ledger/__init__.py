"""The ledger of durable runs: what was frozen, claimed, posted, paid and returned.

Every public method of `Ledger` is one transaction, or one consistent read. `state` reads a whole
run but its arrays and circuits, which `rows`, `results` and `blob` read. Whatever line a process
dies at, what the ledger holds is what it held before a method or after it. Several processes may
use one ledger at once; writers of the same run follow one another.

The ledger reads no clock, sends nothing and holds no account: times are given by the caller, as
seconds since the epoch. Clocks of machines that share a ledger must agree much better than a lease
lasts.

    create_run, add_revision          the plan
    put_layer, freeze_block           when the pass reaches a layer
    claim_intent                      reserves the budget; None: somebody is at it
    begin_post                        immediately before each POST; False: do not post
    record_job                        after it, or when the tag was found
    store_result / fail_attempt       when the job has ended

An owner that fails between the first and the last of these leaves an intent. When its lease has
expired, `take_over` gives it to exactly one other. That one looks the tag up (`note_empty_lookup`,
`record_job`) before it may post again.

Imports neither torch nor Qiskit, and nothing else of `hardware_runs` but its migrations.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from qpc_qiskit.common.extras import importing

with importing("runs", "The ledger of durable runs"):
    import alembic  # noqa: F401
    import sqlalchemy  # noqa: F401

from hardware_runs.ledger.cancelling import Cancelling
from hardware_runs.ledger.database import public
from hardware_runs.ledger.intents import LOOKUP_INTERVAL_SECONDS, Intents
from hardware_runs.ledger.jobs import Jobs
from hardware_runs.ledger.records import (
    JOB_TIMES,
    OPEN_STATES,
    Attempt,
    AttemptState,
    Block,
    Budget,
    Chunk,
    ChunkPlan,
    ChunkResult,
    ChunkState,
    Duplicate,
    FrozenRows,
    JobToCancel,
    Layer,
    LayerProgress,
    RecordedJob,
    Revision,
    Run,
    Session,
)
from hardware_runs.ledger.results import Results
from hardware_runs.ledger.rows import Blocks
from hardware_runs.ledger.runs import Runs
from hardware_runs.ledger.sessions import Sessions
from hardware_runs.ledger.state import RunState, States

_OF_STATE = {"attempts", "chunks", "layers", "revisions", "sessions", "duplicates", "budget"}
_OF_STATE |= {"jobs_to_cancel", "progress"}


class Ledger(Runs, Blocks, Intents, Jobs, Results, Sessions, Cancelling, States):
    """A ledger on SQLite or PostgreSQL. Use it in a `with` statement, or close it.

    Args:
        where: path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL. A new file is
            readable and writable by its owner alone, as are folders that are made for it.
        create: whether an SQLite file that does not exist is made.

    Raises:
        LedgerError: it cannot be opened.
        LedgerVersionError: a newer program made it.
    """

    if not TYPE_CHECKING:  # what is gone is an error there

        def __getattr__(self, name: str) -> Callable[..., Any]:
            """What was a method of its own before there was `state`."""
            if name not in _OF_STATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            told = f"Ledger.{name} is now of the state of a run: ledger.state(run_id).{name}"
            warnings.warn(told, DeprecationWarning, stacklevel=2)

            def read(run_id: str, **given: Any) -> Any:
                found = getattr(self.state(run_id), name)
                kept = {key: value for key, value in given.items() if value is not None}
                return found(**kept) if callable(found) else found

            return read

    def close(self) -> None:
        """Close the connections; the ledger cannot be used afterwards."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


__all__ = [
    "JOB_TIMES",
    "LOOKUP_INTERVAL_SECONDS",
    "OPEN_STATES",
    "Attempt",
    "AttemptState",
    "Block",
    "Budget",
    "Chunk",
    "ChunkPlan",
    "ChunkResult",
    "ChunkState",
    "Duplicate",
    "FrozenRows",
    "JobToCancel",
    "Layer",
    "LayerProgress",
    "Ledger",
    "RecordedJob",
    "Revision",
    "Run",
    "RunState",
    "Session",
    "public",
]
