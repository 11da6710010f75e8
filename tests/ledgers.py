"""Ledgers for tests: on SQLite and PostgreSQL, with small rows, killed and raced on purpose."""

import os
import sys
from contextlib import contextmanager
from itertools import count

import numpy as np
from sqlalchemy import create_engine, event, make_url, select, text

from hardware_runs.ledger import ChunkPlan, FrozenRows, Ledger, schema
from qpc_qiskit.errors import BudgetError

POSTGRES = os.environ.get("QPC_TEST_POSTGRES_URL")
NO_POSTGRES = "no PostgreSQL server: set QPC_TEST_POSTGRES_URL to the URL of an empty database"
RUN_ID = "0d3f1c52-9c4e-4d4e-8a55-0123456789ab"
LEASE = 100.0


def admin():
    url = make_url(POSTGRES)
    return create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")


@contextmanager
def postgres_schema(name):
    """URL of an empty schema on the server, dropped afterwards."""
    engine = admin()
    with engine.connect() as connection:
        connection.execute(text(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'))
        connection.execute(text(f'CREATE SCHEMA "{name}"'))
    url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={name}"})
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f'DROP SCHEMA "{name}" CASCADE'))
        engine.dispose()


def make_rows(num_pixels=4, num_kernels=1, channels=4, seed=0):
    """Rows of a layer call without dedupe: V = N * K."""
    rng = np.random.default_rng(seed)
    kernel, pixel = np.divmod(np.arange(num_kernels * num_pixels), num_pixels)
    return FrozenRows(
        pixels=rng.normal(size=(num_pixels, channels)),
        directions=rng.normal(size=(num_pixels, channels)),
        encoder_angles=rng.normal(size=(num_pixels, channels - 1)),
        ansatz_angles=rng.normal(size=(num_kernels, 6)),
        pairs=np.stack([pixel, kernel], axis=1).astype(np.int64),
        which=np.arange(num_kernels * num_pixels),
        slots=np.arange(num_kernels * num_pixels)[:, None],
        exact=np.zeros((0, 2)),
        num_kernels=num_kernels,
    )


def tiles(num_rows, size=2, revision=1, seconds=5.0):
    starts = range(0, num_rows, size)
    return [ChunkPlan(a, min(a + size, num_rows), seconds, revision) for a in starts]


def planned(ledger, *, name="digits", run_id=RUN_ID, budget=60.0, pixels=4, size=2):
    """A run with one revision, one layer and one block: (run, block)."""
    run = ledger.create_run(name, {"shots": 100, "mode": "batch"}, now=1.0, run_id=run_id)
    ledger.add_revision(
        run.id,
        reason="plan",
        content={"patches": [[0, 1], [2, 3]]},
        blobs={"template": b"QPY"},
        max_qpu_seconds=budget,
        now=1.0,
    )
    ledger.put_layer(run.id, "features.0", {"n": 2, "K": 1}, "abc")
    rows = make_rows(pixels)
    block, _ = ledger.freeze_block(
        run.id, "features.0", 0, pixels, rows, tiles(pixels, size), now=2.0
    )
    return run, block


def dealt_anew(ledger, block, number=None, revision=2, frozen=None):
    """The last chunks of a block on two patches instead of one."""
    replaced = block.chunks if number is None else block.chunks[-number:]
    frozen = frozen or rows_of(ledger, block)
    num_rows = frozen.num_rows
    slots = np.concatenate([frozen.slots[c.row_start : c.row_stop] for c in replaced])
    rows = slots[(slots >= 0) & (slots < num_rows)]
    slots = np.append(rows, -np.ones(len(rows) % 2, np.int64)).reshape(-1, 2)
    plans = tiles(len(slots), 1, revision, 8.0)
    return ledger.deal_anew(block, frozen, replaced, slots, plans, now=4.0)


def claimed(ledger, chunk, owner="A", now=10.0, reserve=20):
    return ledger.claim_intent(chunk, owner, now=now, lease_seconds=LEASE, reserve_seconds=reserve)


def posted(ledger, chunk, owner="A", now=10.0, reserve=20, job="job"):
    attempt = claimed(ledger, chunk, owner, now, reserve)
    assert ledger.begin_post(attempt, owner, now=now, lease_seconds=LEASE)
    return ledger.record_job(attempt, owner, f"{job}-{chunk.row_start}", now=now + 1).attempt


def rows_of(ledger, block):
    """The frozen rows of a block."""
    (found,) = ledger.rows([block])
    return found


def as_it_is(ledger, attempt):
    """An attempt as it stands now."""
    found = ledger.state(attempt.run_id).attempts(chunk_id=attempt.chunk_id)
    return next(each for each in found if each.id == attempt.id)


def values(chunk, seed=0):
    rng = np.random.default_rng(seed)
    evs = rng.uniform(-1, 1, size=(chunk.num_rows, 2))
    return evs, np.full_like(evs, np.nan)


def store(ledger, attempt, chunk, usage=7.5, now=30.0, seed=0):
    evs, stds = values(chunk, seed)
    extras = {"reference": np.arange(3.0)}
    return ledger.store_result(
        attempt, evs, stds, shots=100, usage_seconds=usage, now=now, extras=extras
    )


def dump(ledger):
    """Everything in the ledger but the numbers that a database counts up by itself."""
    counted = {"id", "chunk_id", "block_id", "attempt_id", "session", "tag"}
    content = {}
    with ledger._database.read() as connection:
        for table in schema.metadata.sorted_tables:
            rows = [
                {key: repr(value) for key, value in row._mapping.items() if key not in counted}
                for row in connection.execute(select(table))
            ]
            content[table.name] = sorted(rows, key=lambda row: sorted(row.items()))
    return content


# One method each: what must be there before, and the call.


def _with(prepare):
    def prepared(ledger):
        run, block = planned(ledger)
        return prepare(ledger, run, block)

    return prepared


def _open(ledger, run, block):
    return claimed(ledger, block.chunks[0])


def _begun(ledger, run, block):
    attempt = _open(ledger, run, block)
    ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
    return attempt


def _posted(ledger, run, block):
    return posted(ledger, block.chunks[0])


def _failed(ledger, run, block):
    attempt = _posted(ledger, run, block)
    ledger.fail_attempt(attempt, usage_seconds=1.0, error="no", retry=False, now=12.0)
    return run


def _duplicated(ledger, run, block):
    attempt = _posted(ledger, run, block)
    ledger.note_duplicates(attempt, ["other"], now=12.0)
    return run


def _cancelled(ledger, run, block):
    ledger.cancel_run(run.id, now=9.0, reason="enough")
    return run


def _session(ledger, run, block):
    return ledger.open_session(run.id, "session", "A", now=5.0, reserve_seconds=30)


def _two_revisions(ledger, run, block):
    ledger.add_revision(run.id, reason="patch", content={}, max_qpu_seconds=9.0, now=3.0)
    return run, block.chunks[0]


STEPS = {
    "create_run": (
        lambda ledger: None,
        lambda ledger, _: ledger.create_run("new", {"a": 1}, now=1.0, run_id=RUN_ID),
    ),
    "add_revision": (
        _with(lambda ledger, run, block: run),
        lambda ledger, run: ledger.add_revision(
            run.id,
            reason="dropped patch 2",
            content={"patches": [[0, 1]]},
            blobs={"template": b"QPY", "wide": b"QPY2"},
            max_qpu_seconds=70.0,
            now=3.0,
        ),
    ),
    "add_circuits": (
        _with(lambda ledger, run, block: run),
        lambda ledger, run: ledger.add_circuits(
            run.id, reason="placed anew", blobs={"circuit": b"QPY"}, now=3.0
        ),
    ),
    "set_budget": (
        _with(lambda ledger, run, block: run),
        lambda ledger, run: ledger.set_budget(run.id, 71.0, now=3.0),
    ),
    "put_layer": (
        _with(lambda ledger, run, block: run),
        lambda ledger, run: ledger.put_layer(run.id, "features.2", {"n": 3}, "def"),
    ),
    "freeze_block": (
        _with(lambda ledger, run, block: run),
        lambda ledger, run: ledger.freeze_block(
            run.id, "features.0", 4, 4, make_rows(seed=1), tiles(4), now=3.0
        ),
    ),
    "move_unsent_chunks": (
        _with(_two_revisions),
        lambda ledger, given: ledger.move_unsent_chunks(
            given[0].id, 2, predicted_seconds={given[1].id: 9.0}
        ),
    ),
    "deal_anew": (
        _with(_two_revisions),
        lambda ledger, given: dealt_anew(ledger, *ledger.state(given[0].id).all_blocks),
    ),
    "retry_failed_chunks": (_with(_failed), lambda ledger, run: ledger.retry_failed_chunks(run.id)),
    "claim_intent": (
        _with(lambda ledger, run, block: block.chunks[0]),
        lambda ledger, chunk: claimed(ledger, chunk),
    ),
    "renew_lease": (
        _with(_open),
        lambda ledger, a: ledger.renew_lease(a, "A", now=20.0, lease_seconds=LEASE),
    ),
    "begin_post": (
        _with(_open),
        lambda ledger, a: ledger.begin_post(a, "A", now=20.0, lease_seconds=LEASE),
    ),
    "note_empty_lookup": (
        _with(_begun),
        lambda ledger, a: ledger.note_empty_lookup(a, "A", now=20.0),
    ),
    "take_over": (
        _with(_begun),
        lambda ledger, a: ledger.take_over(a, "B", now=500.0, lease_seconds=LEASE),
    ),
    "drop_lease": (_with(_begun), lambda ledger, a: ledger.drop_lease(a, "A", now=20.0)),
    "release_intent": (_with(_begun), lambda ledger, a: ledger.release_intent(a, "A", "429")),
    "record_job": (
        _with(_begun),
        lambda ledger, a: ledger.record_job(a, "A", "j1", now=20.0, duplicates=["j2", "j3"]),
    ),
    "note_duplicates": (
        _with(_posted),
        lambda ledger, a: ledger.note_duplicates(a, ["j2", "j3"], now=20.0),
    ),
    "fail_attempt": (
        _with(_posted),
        lambda ledger, a: ledger.fail_attempt(
            a, usage_seconds=2.0, error="1305", retry=True, now=20.0
        ),
    ),
    "cancel_attempt": (
        _with(_posted),
        lambda ledger, a: ledger.cancel_attempt(a, usage_seconds=2.0, now=20.0),
    ),
    "record_usage": (_with(_posted), lambda ledger, a: ledger.record_usage(a, 3.0)),
    "store_result": (
        _with(_posted),
        lambda ledger, a: store(ledger, a, ledger.state(a.run_id).chunk(a.chunk_id)),
    ),
    "open_session": (
        _with(lambda ledger, run, block: run),
        lambda ledger, run: ledger.open_session(
            run.id, "session", "A", now=5.0, reserve_seconds=30
        ),
    ),
    "record_session": (_with(_session), lambda ledger, s: ledger.record_session(s, "s-1")),
    "close_session": (
        _with(_session),
        lambda ledger, s: ledger.close_session(s, now=50.0, usage_seconds=12.0),
    ),
    "cancel_run": (
        _with(
            lambda ledger, run, block: (
                claimed(ledger, block.chunks[1]),
                _begun(ledger, run, block),
            )
        ),
        lambda ledger, _: ledger.cancel_run(RUN_ID, now=9.0, reason="enough"),
    ),
    "resume_run": (_with(_cancelled), lambda ledger, run: ledger.resume_run(run.id)),
    "note_duplicate_cancelled": (
        _with(_duplicated),
        lambda ledger, run: ledger.note_duplicate_cancelled(
            run.id, "other", now=20.0, usage_seconds=0.0
        ),
    ),
}


def on_each_event(ledger, act):
    """Call act(k) before the k-th statement, or commit."""
    counter = count()
    engine = ledger._database.engine
    handlers = [
        ("before_cursor_execute", lambda *_: act(next(counter))),
        ("commit", lambda *_: act(next(counter))),
    ]
    for name, handler in handlers:
        event.listen(engine, name, handler)
    return lambda: [event.remove(engine, name, handler) for name, handler in handlers]


def clear(ledger):
    with ledger._database.write() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())


def _child(ledger, act, prepared, moment):
    """In a forked process: die at this moment, or finish the step."""

    def die(k):
        if k == moment:
            os._exit(9)

    try:
        on_each_event(ledger, die)
        act(ledger, prepared)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - a fork must not go on as its parent
        sys.stderr.write(repr(error))
        sys.stderr.flush()
        os._exit(1)


def kill_everywhere(where, reference, steps, every):
    """Kill a process at every moment of some steps, or at one of so many; how often, by step.

    For a process of its own, because it forks.
    """
    deaths = {}
    with Ledger(where) as ledger, Ledger(reference) as whole:
        for name in steps:
            prepare, act = STEPS[name]
            clear(whole)
            act(whole, prepare(whole))
            after = dump(whole)
            clear(ledger)
            prepared = prepare(ledger)
            before = dump(ledger)
            assert before != after, name
            for moment in count(0, every):
                pid = os.fork()
                if pid == 0:
                    _child(ledger, act, prepared, moment)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                found = dump(ledger)
                assert code in (0, 9), (name, moment, code)
                if code == 0:
                    assert found == after, (name, moment)
                    break
                assert found == before, (name, moment)
            deaths[name] = moment
    return deaths


def race(where, run_id, me, barrier):
    """One of several processes: claim every chunk, then take over every expired intent."""
    with Ledger(where) as ledger:
        chunks = ledger.state(run_id).chunks()
        barrier.wait(60)
        won, refused = [], 0
        for chunk in chunks:
            try:
                attempt = ledger.claim_intent(
                    chunk, me, now=10.0, lease_seconds=1.0, reserve_seconds=3
                )
            except BudgetError:
                refused += 1
                continue
            won += [chunk.id] if attempt is not None else []
        barrier.wait(60)
        intents = ledger.state(run_id).attempts()
        barrier.wait(60)
        taken = [
            each.chunk_id
            for each in intents
            if ledger.take_over(each, f"{me}'", now=20.0, lease_seconds=1.0)
        ]
    return me, won, refused, taken


def open_at_once(where, barrier):
    """One of several processes that find an empty place."""
    barrier.wait(60)
    with Ledger(where) as ledger:
        return len(ledger.list_runs())
