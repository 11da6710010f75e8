"""Runs, the revisions of their plan, and the layers that they have reached."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, literal, select

from hardware_runs.ledger import schema
from hardware_runs.ledger.documents import checked_blob, digest, from_json, to_json, verified
from hardware_runs.ledger.records import Layer, Revision, Run
from hardware_runs.ledger.store import Store, no_run, run_name
from qpc_qiskit.errors import LedgerConflictError, LedgerError


class Runs(Store):
    """Methods of the ledger on runs, revisions and layers."""

    def create_run(
        self, name: str, settings: Mapping[str, Any], *, now: float, run_id: str | None = None
    ) -> Run:
        """Record a new run.

        Args:
            name: unique, for people.
            settings: JSON: backend, mode, shots and the like; never an account.
            now: seconds since the epoch.
            run_id: a UUID; a random one by default.

        Raises:
            LedgerConflictError: there is a run with this name.
        """
        if not name.strip():
            raise ValueError("A run needs a name.")
        run = {
            "id": str(uuid.UUID(run_id) if run_id else uuid.uuid4()),
            "name": name,
            "created_at": now,
            "settings": to_json(settings, "The settings"),
        }
        with self._writing(None) as connection:
            taken = connection.scalar(select(schema.runs.c.id).where(schema.runs.c.name == name))
            if taken is not None:
                raise LedgerConflictError(
                    f"Ledger {self.name}: there is a run {name!r} already ({taken}). Resume that "
                    "one, or choose another name."
                )
            connection.execute(insert(schema.runs).values(run))
            return _run(_run_row(connection, schema.runs.c.id == run["id"]))

    def get_run(self, name_or_id: str) -> Run:
        """A run by its name, or by its id.

        Raises:
            LedgerError: there is none.
        """
        with self._reading() as connection:
            for column in (schema.runs.c.name, schema.runs.c.id):
                row = _run_row(connection, column == name_or_id)
                if row is not None:
                    return _run(row)
            names = connection.scalars(select(schema.runs.c.name).order_by("created_at")).all()
        raise LedgerError(
            f"Ledger {self.name}: it has no run {name_or_id!r}; it has "
            f"{', '.join(repr(name) for name in names[-5:]) or 'none'}."
        )

    def find_run(self, name: str) -> Run | None:
        """A run by its name; None: there is none."""
        with self._reading() as connection:
            row = _run_row(connection, schema.runs.c.name == name)
            return None if row is None else _run(row)

    def list_runs(self) -> tuple[Run, ...]:
        """All runs, the oldest first."""
        with self._reading() as connection:
            query = select(schema.runs).order_by(schema.runs.c.created_at, schema.runs.c.name)
            return tuple(_run(row) for row in connection.execute(query))

    def add_revision(
        self,
        run_id: str,
        *,
        reason: str,
        content: Mapping[str, Any],
        max_qpu_seconds: float | None,
        now: float,
        blobs: Mapping[str, bytes] | None = None,
    ) -> Revision:
        """Append a revision of the plan; it is never changed afterwards.

        Args:
            run_id: of an existing run.
            reason: why there is a new one, for people.
            content: JSON: patches, options, calibration id and the like.
            max_qpu_seconds: budget of the whole run from now on, what was used before included;
                None: no limit.
            now: seconds since the epoch.
            blobs: bytes by name, such as ISA circuits as QPY.
        """
        _check_budget(max_qpu_seconds)
        text = to_json(content, "The revision")
        with self._writing(run_id) as connection:
            number = _append(connection, run_id, reason, text, max_qpu_seconds, now)
            _add_blobs(connection, run_id, number, blobs or {})
            return load_revisions(connection, run_id)[-1]

    def add_circuits(
        self, run_id: str, *, reason: str, blobs: Mapping[str, bytes], now: float
    ) -> Revision:
        """Append a revision that is the newest one with some blobs added, or replaced."""
        with self._writing(run_id) as connection:
            newest = load_revisions(connection, run_id)[-1]
            text = to_json(newest.content, "The revision")
            number = _append(connection, run_id, reason, text, newest.max_qpu_seconds, now)
            _copy_blobs(connection, run_id, number, newest.blobs - blobs.keys())
            _add_blobs(connection, run_id, number, blobs)
            return load_revisions(connection, run_id)[-1]

    def set_budget(self, run_id: str, max_qpu_seconds: float | None, *, now: float) -> Revision:
        """Append a revision that is the newest one with another budget; None: no limit."""
        _check_budget(max_qpu_seconds)
        with self._writing(run_id) as connection:
            newest = load_revisions(connection, run_id)[-1]
            text = to_json(newest.content, "The revision")
            number = _append(connection, run_id, "another budget", text, max_qpu_seconds, now)
            _copy_blobs(connection, run_id, number, newest.blobs)
            return load_revisions(connection, run_id)[-1]

    def blob(self, run_id: str, number: int, name: str) -> bytes:
        """A blob of a revision.

        Raises:
            LedgerCorruptError: it is not what was written.
        """
        table = schema.revision_blobs
        where = _of_revision(run_id, number) & (table.c.name == name)
        with self._reading() as connection:
            row = connection.execute(select(table).where(where)).one()
            what = f"Run {run_name(connection, run_id)!r}, revision {number}, {name!r}:"
            return verified(row.content, row.sha256, what)

    def put_layer(
        self, run_id: str, name: str, spec: Mapping[str, Any], weights_hash: str
    ) -> Layer:
        """Record that a layer was reached; again and again, as long as it is the same.

        Args:
            run_id: of an existing run.
            name: of the layer in its network.
            spec: JSON: everything but the weights.
            weights_hash: of the weights.

        Raises:
            LedgerConflictError: its weights or its specification changed since the run began.
        """
        text = to_json(spec, f"The specification of layer {name!r}")
        with self._writing(run_id) as connection:
            table = schema.layers
            found = {layer.name: layer for layer in load_layers(connection, run_id)}
            if name in found:
                stored = found[name]
                changed = "weights" if stored.weights_hash != weights_hash else "specification"
                if stored.weights_hash != weights_hash or stored.spec != from_json(text):
                    raise LedgerConflictError(
                        f"Run {run_name(connection, run_id)!r}, layer {name!r}: its {changed} "
                        "changed since the run began, so the results so far do not belong to it. "
                        "Load the checkpoint that the run was planned with, or plan a new run."
                    )
                return stored
            connection.execute(
                insert(table).values(
                    run_id=run_id,
                    name=name,
                    position=len(found),
                    spec=text,
                    weights_hash=weights_hash,
                )
            )
            return load_layers(connection, run_id)[-1]


def _check_budget(max_qpu_seconds: float | None) -> None:
    if max_qpu_seconds is not None and not max_qpu_seconds >= 0:
        raise ValueError(f"Expected max_qpu_seconds >= 0, or None; got {max_qpu_seconds}.")


def _append(
    connection: Connection,
    run_id: str,
    reason: str,
    content: str,
    max_qpu_seconds: float | None,
    now: float,
) -> int:
    """Append a revision without blobs; its number."""
    table = schema.revisions
    last = connection.scalar(select(func.max(table.c.number)).where(table.c.run_id == run_id))
    number = (last or 0) + 1
    connection.execute(
        insert(table).values(
            run_id=run_id,
            number=number,
            created_at=now,
            reason=reason,
            max_qpu_seconds=max_qpu_seconds,
            content=content,
        )
    )
    return number


def _add_blobs(
    connection: Connection, run_id: str, number: int, blobs: Mapping[str, bytes]
) -> None:
    for name, blob in blobs.items():
        checked_blob(blob, f"{name!r} of revision {number}")
        connection.execute(
            insert(schema.revision_blobs).values(
                run_id=run_id, number=number, name=name, content=blob, sha256=digest(blob)
            )
        )


def _copy_blobs(connection: Connection, run_id: str, number: int, names: Collection[str]) -> None:
    """Give a revision blobs of the one before, unread."""
    table = schema.revision_blobs
    query = select(
        table.c.run_id, literal(number), table.c.name, table.c.content, table.c.sha256
    ).where(_of_revision(run_id, number - 1), table.c.name.in_(names))
    columns = ["run_id", "number", "name", "content", "sha256"]
    connection.execute(insert(table).from_select(columns, query))


def _of_revision(run_id: str, number: int) -> ColumnElement[bool]:
    table = schema.revision_blobs.c
    return and_(table.run_id == run_id, table.number == number)


def _run_row(connection: Connection, where: Any) -> Row[Any] | None:
    return connection.execute(select(schema.runs).where(where)).one_or_none()


def _run(row: Row[Any] | None) -> Run:
    assert row is not None
    return Run(**{**row._mapping, "settings": from_json(row.settings)})


def load_run(connection: Connection, ledger: str, run_id: str) -> Run:
    """A run by its id.

    Raises:
        LedgerError: there is none.
    """
    row = _run_row(connection, schema.runs.c.id == run_id)
    if row is None:
        raise no_run(ledger, run_id)
    return _run(row)


def load_revisions(connection: Connection, run_id: str) -> tuple[Revision, ...]:
    """All revisions of a run, the newest last."""
    table = schema.revision_blobs.c
    blobs: dict[int, set[str]] = {}
    names = select(table.number, table.name).where(table.run_id == run_id)
    for number, name in connection.execute(names):
        blobs.setdefault(number, set()).add(name)
    kept = schema.revisions
    query = select(kept).where(kept.c.run_id == run_id).order_by(kept.c.number)
    rows = connection.execute(query).all()
    contents = [from_json(row.content) for row in rows]
    return tuple(
        Revision(
            **{**row._mapping, "content": content},
            blobs=frozenset(blobs.get(row.number, ())),
        )
        for row, content in zip(rows, contents, strict=True)
    )


def load_layers(connection: Connection, run_id: str) -> tuple[Layer, ...]:
    """The layers that a run has reached, in order of first use."""
    table = schema.layers
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.position)
    rows = connection.execute(query).all()
    specs = [from_json(row.spec) for row in rows]
    return tuple(
        Layer(row.run_id, row.name, row.position, spec, row.weights_hash)
        for row, spec in zip(rows, specs, strict=True)
    )
