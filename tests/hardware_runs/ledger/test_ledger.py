"""Every method of the ledger, on SQLite and on PostgreSQL."""

import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from ledgers import (
    LEASE,
    NO_POSTGRES,
    POSTGRES,
    RUN_ID,
    as_it_is,
    claimed,
    clear,
    dealt_anew,
    dump,
    make_rows,
    planned,
    posted,
    postgres_schema,
    rows_of,
    store,
    tiles,
    values,
)

from hardware_runs.ledger import AttemptState, ChunkState, Ledger, Run
from qpc_qiskit.errors import BudgetError, LedgerConflictError, LedgerError


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request, tmp_path_factory):
    if request.param == "sqlite":
        with Ledger(tmp_path_factory.mktemp("ledger") / "runs.db") as ledger:
            yield ledger
        return
    if not POSTGRES:
        pytest.skip(NO_POSTGRES)
    with postgres_schema("qpc_test_methods") as url, Ledger(url) as ledger:
        yield ledger


@pytest.fixture
def ledger(opened):
    clear(opened)
    return opened


LAYER = "features.0"


# Runs, revisions, layers


def test_runs(ledger):
    run = ledger.create_run("digits", {"backend": "ibm_x", "grid": 2.0**-20}, now=5.25)
    assert run == ledger.get_run("digits") == ledger.get_run(run.id)
    assert run.settings == {"backend": "ibm_x", "grid": 2.0**-20}
    assert (run.created_at, run.cancelled_at) == (5.25, None)
    other = ledger.create_run("another", {}, now=6.0)
    assert [each.name for each in ledger.list_runs()] == ["digits", "another"]
    assert other.id != run.id
    with pytest.raises(LedgerConflictError, match=r"run 'digits' already .*choose another name"):
        ledger.create_run("digits", {}, now=7.0)
    with pytest.raises(LedgerError, match=r"no run 'nobody'; it has 'digits', 'another'"):
        ledger.get_run("nobody")
    with pytest.raises(FrozenInstanceError):
        run.name = "x"


def test_names_of_runs(ledger):
    with pytest.raises(ValueError, match="needs a name"):
        ledger.create_run(" ", {}, now=0.0)
    name = "Ünïcode'; DROP TABLE ledger_runs; --"
    assert ledger.create_run(name, {}, now=0.0) == ledger.get_run(name)


def test_revisions_are_appended(ledger):
    run = ledger.create_run("digits", {}, now=1.0)
    blobs = {"template": bytes(range(256)), "empty": b""}
    first = ledger.add_revision(
        run.id, reason="plan", content={"a": [1, None]}, blobs=blobs, max_qpu_seconds=10, now=2.0
    )
    second = ledger.add_revision(
        run.id, reason="calibration", content={}, max_qpu_seconds=None, now=3.0
    )
    assert (first.number, second.number) == (1, 2)
    assert {name: ledger.blob(run.id, 1, name) for name in first.blobs} == blobs
    assert ledger.state(run.id).revisions == (first, second)
    assert ledger.state(run.id).budget.max_qpu_seconds is None
    with pytest.raises(ValueError, match="max_qpu_seconds >= 0"):
        ledger.add_revision(run.id, reason="", content={}, max_qpu_seconds=float("nan"), now=3.0)
    with pytest.raises(LedgerError, match="no run with id"):
        ledger.add_revision("nobody", reason="", content={}, max_qpu_seconds=1.0, now=3.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"a": float("nan")}, "cannot be stored as JSON"),
        ({"a": object()}, "cannot be stored as JSON"),
        ({"a": {1: 2}}, "str keys only"),
        ({"options": [{"API_Token": "x"}]}, "never stored"),
        ({"password": "x"}, "never stored"),
    ],
)
def test_settings_that_are_refused(ledger, settings, message):
    with pytest.raises(ValueError, match=message):
        ledger.create_run("digits", settings, now=1.0)
    assert ledger.list_runs() == ()


def test_layers_keep_their_weights(ledger):
    run = ledger.create_run("digits", {}, now=1.0)
    first = ledger.put_layer(run.id, "b", {"n": 2, "shape": (1, 2)}, "abc")
    second = ledger.put_layer(run.id, "a", {"n": 3}, "def")
    assert ledger.put_layer(run.id, "b", {"n": 2, "shape": (1, 2)}, "abc") == first
    assert (first.order, second.order) == (0, 1)
    assert ledger.state(run.id).layers == (first, second)
    with pytest.raises(LedgerConflictError, match="'digits', layer 'b': its weights changed"):
        ledger.put_layer(run.id, "b", {"n": 2, "shape": (1, 2)}, "abd")
    with pytest.raises(LedgerConflictError, match="'b': its specification changed since the run"):
        ledger.put_layer(run.id, "b", {"n": 4}, "abc")


# Blocks and chunks


def test_frozen_rows_come_back_unchanged(ledger):
    run, block = planned(ledger)
    given = make_rows()
    (found,) = ledger.state(run.id).blocks(LAYER)
    for rows in (rows_of(ledger, block), rows_of(ledger, found)):
        for name in ("pixels", "directions", "encoder_angles", "ansatz_angles", "pairs", "which"):
            assert getattr(rows, name).tobytes() == getattr(given, name).tobytes()
            assert getattr(rows, name).dtype == getattr(given, name).dtype
        assert rows.num_kernels == 1
    assert (found.start, found.count, found.stop, found.created_at) == (0, 4, 4, 2.0)
    assert [(c.row_start, c.row_stop, c.num_rows) for c in found.chunks] == [(0, 2, 2), (2, 4, 2)]
    assert {(c.state, c.revision, c.predicted_seconds, c.layer) for c in found.chunks} == {
        (ChunkState.UNSENT, 1, 5.0, LAYER)
    }


def test_blocks_of_a_range(ledger):
    run, first = planned(ledger)
    freeze = lambda start, n: ledger.freeze_block(  # noqa: E731
        run.id, LAYER, start, n, make_rows(n), tiles(n), now=3.0
    )
    (third, _), (second, _) = freeze(8, 2), freeze(4, 4)
    everything = [first.id, second.id, third.id]
    found = lambda *range_: [b.id for b in ledger.state(run.id).blocks(LAYER, *range_)]  # noqa: E731
    assert found() == found(0, 10) == everything
    assert found(3, 5) == everything[:2]
    assert found(4, 8) == everything[1:2]
    assert found(9) == everything[2:]
    assert found(10) == found(4, 4) == []
    assert ledger.state(run.id).blocks("another") == ()
    assert [c.block_id for c in ledger.state(run.id).chunks()] == [first.id] * 2 + [
        second.id
    ] * 2 + [third.id]


def test_the_first_frozen_rows_count(ledger):
    run, block = planned(ledger)
    again, rows = ledger.freeze_block(
        run.id, LAYER, 0, 4, make_rows(seed=5), tiles(4, size=4), now=9.0
    )
    assert again.id == block.id
    assert again.chunks == block.chunks
    assert (rows.pixels == rows_of(ledger, block).pixels).all()
    for start, n in ((0, 2), (2, 4), (3, 1)):
        with pytest.raises(LedgerConflictError, match="positions 0 to 4 are frozen already"):
            ledger.freeze_block(run.id, LAYER, start, n, make_rows(n), tiles(n), now=9.0)
    assert len(ledger.state(run.id).chunks()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((3, 4))}, "Expected 4 pixels"),
        ({"pixels": np.zeros((4, 4), np.float32)}, "Expected pixels of float64"),
        ({"which": np.array([0, 1, 2, 4])}, "index in which"),
        ({"which": np.array([0, 1, 2, -1])}, "index in which"),
        ({"which": np.zeros((4, 1), np.int64)}, "which of int64 with 1 dim"),
        ({"pairs": np.array([[0, 1]] * 4)}, "index in pairs"),
        ({"pairs": np.zeros((0, 2), np.int64)}, "V >= 1"),
        ({"num_kernels": 2}, "8 entries in which"),
    ],
)
def test_rows_that_do_not_fit(ledger, change, message):
    run, _ = planned(ledger)
    with pytest.raises(ValueError, match=message):
        ledger.freeze_block(run.id, LAYER, 4, 4, replace(make_rows(), **change), tiles(4), now=3.0)
    with pytest.raises(ValueError, match="start >= 0 and count >= 1"):
        ledger.freeze_block(run.id, LAYER, -1, 4, make_rows(), tiles(4), now=3.0)


@pytest.mark.parametrize("cut", [tiles(3), tiles(4)[:1], tiles(4)[::-1], [], tiles(4)[1:]])
def test_chunks_that_do_not_tile(ledger, cut):
    run, _ = planned(ledger)
    with pytest.raises(ValueError, match="chunks that tile 4 executions"):
        ledger.freeze_block(run.id, LAYER, 4, 4, make_rows(), cut, now=3.0)


def test_chunks_need_layer_and_revision(ledger):
    run, _ = planned(ledger)
    with pytest.raises(LedgerConflictError, match=r"(?i)foreign key"):
        ledger.freeze_block(run.id, "nowhere", 4, 4, make_rows(), tiles(4), now=3.0)
    with pytest.raises(LedgerConflictError, match=r"(?i)foreign key"):
        ledger.freeze_block(run.id, LAYER, 4, 4, make_rows(), tiles(4, revision=2), now=3.0)
    assert len(ledger.state(run.id).blocks(LAYER)) == 1


def test_moving_unsent_chunks(ledger):
    run, block = planned(ledger)
    first, second = block.chunks
    claimed(ledger, first)
    with pytest.raises(LedgerError, match="'digits' has no revision 2"):
        ledger.move_unsent_chunks(run.id, 2)
    ledger.add_revision(run.id, reason="x", content={}, max_qpu_seconds=60.0, now=3.0)
    assert ledger.move_unsent_chunks(run.id, 2, predicted_seconds={first.id: 1, second.id: 9}) == 1
    assert ledger.move_unsent_chunks(run.id, 2) == 0
    assert ledger.state(first.run_id).chunk(first.id) == replace(first, state=ChunkState.OPEN)
    moved = ledger.state(second.run_id).chunk(second.id)
    assert moved == replace(second, revision=2, predicted_seconds=9.0)
    assert claimed(ledger, second) is None  # prepared for a revision that is no longer its own
    assert claimed(ledger, moved).revision == 2


def test_dealing_anew(ledger):
    """Executions are added, chunks take the place of others; what was there is unchanged."""
    run, block = planned(ledger, pixels=7, size=2)
    ledger.add_revision(run.id, reason="x", content={}, max_qpu_seconds=60.0, now=3.0)
    attempt = posted(ledger, block.chunks[0])
    assert dealt_anew(ledger, block, 2)
    (after,) = ledger.state(run.id).blocks("features.0")
    assert [(c.row_start, c.row_stop, c.revision) for c in after.chunks] == [
        (0, 2, 1),
        (2, 4, 1),
        (7, 8, 2),
        (8, 9, 2),
    ]
    dealt = rows_of(ledger, after)
    assert dealt.slots.tolist() == [
        *([row, -1] for row in range(7)),
        *([4, 5], [6, -1]),
    ]
    assert np.array_equal(dealt.pairs, make_rows(7).pairs)
    assert ledger.state(run.id).chunks() == after.chunks
    replaced = [c for c in ledger.state(run.id).all_chunks if c.replaced_at is not None]
    assert replaced == [replace(c, replaced_at=4.0) for c in block.chunks[2:]]
    assert claimed(ledger, block.chunks[2]) is None
    assert ledger.state(run.id).progress[0].num_rows == 4 + 2
    assert ledger.state(run.id).progress[0].predicted_seconds_left == 5.0 + 5.0 + 8.0 + 8.0
    store(ledger, attempt, after.chunks[0])
    # once more, with what was dealt before: on one patch again
    slots = np.array([[6], [5], [4]])
    assert ledger.deal_anew(after, dealt, after.chunks[2:], slots, tiles(3, 3, 2), now=5.0)
    (last,) = ledger.state(run.id).blocks("features.0")
    assert rows_of(ledger, last).slots[9:].tolist() == [[6, -1], [5, -1], [4, -1]]
    assert [(c.row_start, c.row_stop) for c in last.chunks] == [(0, 2), (2, 4), (9, 12)]
    assert ledger.move_unsent_chunks(run.id, 2, chunks=last.chunks[1:2]) == 1
    assert len(ledger.state(run.id).all_chunks) == 7


def test_dealing_anew_yields_to_others(ledger):
    run, block = planned(ledger, pixels=6, size=2)
    ledger.add_revision(run.id, reason="x", content={}, max_qpu_seconds=60.0, now=3.0)
    claimed(ledger, block.chunks[2])
    before, frozen = dump(ledger), rows_of(ledger, block)
    assert not dealt_anew(ledger, block, 2)  # somebody is at one of them
    assert dump(ledger) == before
    assert dealt_anew(ledger, replace(block, chunks=block.chunks[:1]))
    before = dump(ledger)
    read_before = replace(block, chunks=block.chunks[1:2])
    assert not dealt_anew(ledger, read_before, frozen=frozen)
    assert not dealt_anew(ledger, block, 3)
    assert dump(ledger) == before


@pytest.mark.parametrize("way", ["replaced", "moved"])
def test_a_late_job_of_a_chunk_that_went_on_does_not_count(ledger, way):
    """Its owner lost the lease in a POST; meanwhile the chunk was given back and dealt anew."""
    run, block = planned(ledger)
    ledger.add_revision(run.id, reason="x", content={}, max_qpu_seconds=60.0, now=3.0)
    attempt = claimed(ledger, block.chunks[1])
    assert ledger.begin_post(attempt, "A", now=10.0, lease_seconds=LEASE)
    taken = ledger.take_over(attempt, "B", now=500.0, lease_seconds=LEASE)
    ledger.note_empty_lookup(taken, "B", now=510.0)
    ledger.note_empty_lookup(taken, "B", now=600.0)
    assert ledger.begin_post(taken, "B", now=601.0, lease_seconds=LEASE)
    ledger.release_intent(taken, "B", "429")
    if way == "replaced":
        assert dealt_anew(ledger, block, 1)
    else:
        assert ledger.move_unsent_chunks(run.id, 2, chunks=block.chunks[1:]) == 1
    late = ledger.record_job(attempt, "A", "late", now=700.0)
    assert not late.is_kept
    assert late.to_cancel == ("late",)
    assert [each.job_id for each in ledger.state(run.id).duplicates] == ["late"]
    assert ledger.state(block.chunks[1].run_id).chunk(block.chunks[1].id).state == ChunkState.UNSENT


@pytest.mark.parametrize(
    ("slots", "chunks", "message"),
    [
        ([[2], [2]], tiles(2), "another selection"),
        ([[2]], tiles(1), "another selection"),
        ([[2], [4]], tiles(2), "outside the 4 rows"),
        ([[2], [3]], tiles(1), "tile 2 executions"),
        ([2, 3], tiles(2), r"slots \(W, J\)"),
        ([[2.0], [3.0]], tiles(2), "float64"),
    ],
)
def test_dealing_anew_refuses(ledger, slots, chunks, message):
    _, block = planned(ledger)
    before, frozen = dump(ledger), rows_of(ledger, block)
    with pytest.raises(ValueError, match=message):
        ledger.deal_anew(block, frozen, block.chunks[1:], np.array(slots), chunks, now=4.0)
    with pytest.raises(LedgerError, match="'digits' has no revision 9"):
        dealt_anew(ledger, block, 1, revision=9)
    assert dump(ledger) == before


# Intents


def test_claiming(ledger):
    run, block = planned(ledger)
    chunk = block.chunks[0]
    attempt = claimed(ledger, chunk)
    assert (attempt.number, attempt.owner, attempt.state) == (1, "A", AttemptState.INTENT)
    assert (attempt.lease_expires_at, attempt.reserved_seconds) == (110.0, 20)
    assert attempt.tag == f"qpc-{RUN_ID.replace('-', '')[:12]}-{chunk.id}-1"
    assert attempt.post_begun_at is None
    assert ledger.state(chunk.run_id).chunk(chunk.id).state == ChunkState.OPEN
    assert as_it_is(ledger, attempt) == attempt
    for owner in "AB":
        for now in (11.0, 1e6):  # an expired lease is taken over, never claimed
            assert claimed(ledger, chunk, owner, now) is None
    with pytest.raises(ValueError, match="whole seconds"):
        claimed(ledger, block.chunks[1], reserve=1.5)
    assert ledger.state(run.id).attempts() == (attempt,)


def test_renewing(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    assert ledger.renew_lease(attempt, "A", now=50.0, lease_seconds=LEASE)
    assert as_it_is(ledger, attempt).lease_expires_at == 150.0
    assert ledger.renew_lease(attempt, "A", now=40.0, lease_seconds=LEASE)  # never shortened
    assert as_it_is(ledger, attempt).lease_expires_at == 150.0
    assert not ledger.renew_lease(attempt, "B", now=50.0, lease_seconds=LEASE)
    ledger.begin_post(attempt, "A", now=60.0, lease_seconds=LEASE)
    ledger.record_job(attempt, "A", "job", now=61.0)
    assert not ledger.renew_lease(attempt, "A", now=62.0, lease_seconds=LEASE)


def test_taking_over(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    take = lambda owner, now: ledger.take_over(  # noqa: E731
        attempt, owner, now=now, lease_seconds=LEASE
    )
    assert take("B", 109.9) is None
    taken = take("B", 110.0)
    assert (taken.owner, taken.lease_expires_at, taken.number) == ("B", 210.0, 1)
    assert take("C", 111.0) is None
    assert not ledger.renew_lease(attempt, "A", now=111.0, lease_seconds=LEASE)
    assert not ledger.begin_post(attempt, "A", now=111.0, lease_seconds=LEASE)
    assert ledger.begin_post(taken, "B", now=111.0, lease_seconds=LEASE)
    ledger.record_job(taken, "B", "job", now=112.0)
    assert take("C", 1e6) is None


def test_a_second_post_needs_two_lookups(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    begin = lambda now: ledger.begin_post(attempt, "A", now=now, lease_seconds=LEASE)  # noqa: E731
    look = lambda now: ledger.note_empty_lookup(attempt, "A", now=now)  # noqa: E731
    assert begin(11.0)
    for action in (lambda: None, lambda: look(20.0), lambda: look(79.0)):
        action()
        with pytest.raises(LedgerConflictError, match=r"chunk \d+: .* twice, at least 60 s apart"):
            begin(79.0)
    assert look(80.0) == 20.0
    assert begin(80.0)
    with pytest.raises(LedgerConflictError, match="may have accepted a POST"):
        begin(81.0)  # what was looked up before that POST says nothing about it
    assert look(82.0) is None
    assert ledger.note_empty_lookup(attempt, "B", now=150.0) is None
    assert as_it_is(ledger, attempt).last_empty_lookup_at == 82.0


def test_dropping_a_lease(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    assert not ledger.drop_lease(attempt, "B", now=20.0)
    assert ledger.drop_lease(attempt, "A", now=20.0)
    assert ledger.take_over(attempt, "B", now=20.0, lease_seconds=LEASE).owner == "B"


def test_releasing_reuses_the_number(ledger):
    run, block = planned(ledger)
    first = block.chunks[0]
    attempt = claimed(ledger, first)
    assert ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
    assert not ledger.release_intent(attempt, "B", "429")
    assert ledger.release_intent(attempt, "A", "429 too many requests")
    assert not ledger.release_intent(attempt, "A", "again")
    released = as_it_is(ledger, attempt)
    assert (released.state, released.error) == (AttemptState.RELEASED, "429 too many requests")
    assert ledger.state(run.id).budget.reserved_seconds == 0
    assert ledger.state(first.run_id).chunk(first.id).state == ChunkState.UNSENT
    again = claimed(ledger, first, "B", now=20.0, reserve=33)
    assert (again.id, again.number, again.tag) == (attempt.id, 1, attempt.tag)
    assert (again.owner, again.post_begun_at, again.reserved_seconds) == ("B", None, 33)


def test_what_another_owner_may_have_posted_is_not_released(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
    ledger.take_over(attempt, "B", now=200.0, lease_seconds=LEASE)
    assert not ledger.release_intent(attempt, "B", "stopped")
    for now in (201.0, 260.9):  # a listing may lag by a minute
        ledger.note_empty_lookup(attempt, "B", now=now)
        assert not ledger.release_intent(attempt, "B", "stopped")
    ledger.note_empty_lookup(attempt, "B", now=261.0)
    assert ledger.release_intent(attempt, "B", "stopped")


def test_handles_of_another_ledger(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    with pytest.raises(LedgerError, match="no chunk with id 12345"):
        claimed(ledger, replace(block.chunks[0], id=12345))
    with pytest.raises(LedgerError, match="no attempt with id 12345"):
        ledger.renew_lease(replace(attempt, id=12345), "A", now=11.0, lease_seconds=LEASE)


# Jobs


def test_recording_a_job(ledger):
    run, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    with pytest.raises(LedgerConflictError, match="begin_post was not called"):
        ledger.record_job(attempt, "A", "j1", now=11.0)
    ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
    for _ in range(2):
        recorded = ledger.record_job(attempt, "A", "j1", now=12.0, duplicates=["j1", "j2", "j2"])
        assert recorded.is_kept
        assert recorded.to_cancel == ("j2",)
        assert (recorded.attempt.job_id, recorded.attempt.posted_at) == ("j1", 12.0)
        assert recorded.attempt.state == AttemptState.POSTED
        assert recorded.attempt.duplicates == ("j2",)
    late = ledger.record_job(attempt, "A", "j2", now=13.0)
    assert not late.is_kept
    assert late.to_cancel == ("j2",)
    assert ledger.note_duplicates(attempt, ["j1", "j2", "j3"], now=14.0) == ("j2", "j3")
    ledger.note_duplicate_cancelled(run.id, "j2", now=15.0, usage_seconds=None)
    assert ledger.note_duplicates(attempt, ["j2"], now=16.0) == ("j3",)
    with pytest.raises(LedgerError, match="job j9 is no duplicate"):
        ledger.note_duplicate_cancelled(run.id, "j9", now=15.0, usage_seconds=None)
    assert [(d.job_id, d.cancelled_at, d.noticed_at) for d in ledger.state(run.id).duplicates] == [
        ("j2", 15.0, 12.0),
        ("j3", None, 14.0),
    ]


def test_a_job_of_an_owner_that_lost_its_lease(ledger):
    """Whoever records first keeps its job; the other's is to be cancelled."""
    _, block = planned(ledger)
    for chunk, order in zip(block.chunks, ("AB", "BA"), strict=True):
        attempt = claimed(ledger, chunk, "A")
        ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
        ledger.take_over(attempt, "B", now=200.0, lease_seconds=LEASE)
        ledger.note_empty_lookup(attempt, "B", now=201.0)
        ledger.note_empty_lookup(attempt, "B", now=270.0)
        ledger.begin_post(attempt, "B", now=271.0, lease_seconds=LEASE)
        first, second = (
            ledger.record_job(attempt, owner, f"{owner}{chunk.id}", now=272.0) for owner in order
        )
        assert first.is_kept
        assert not second.is_kept
        assert second.to_cancel == (f"{order[1]}{chunk.id}",)
        assert second.attempt.job_id == f"{order[0]}{chunk.id}"


def test_a_job_that_is_reported_after_release(ledger):
    """The reservation is taken again: the job exists."""
    run, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0], "A")
    ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
    ledger.release_intent(attempt, "A", "refused, it seemed")
    recorded = ledger.record_job(attempt, "A", "late", now=12.0)
    assert recorded.is_kept
    assert ledger.state(block.chunks[0].run_id).chunk(block.chunks[0].id).state == ChunkState.OPEN
    assert ledger.state(run.id).budget.reserved_seconds == 20


def test_a_job_that_is_reported_when_the_chunk_went_on(ledger):
    run, block = planned(ledger)
    chunk = block.chunks[0]
    attempt = claimed(ledger, chunk, "A")
    ledger.cancel_attempt(attempt, usage_seconds=None, now=11.0, owner="A")
    other = posted(ledger, chunk, "B", now=12.0)
    recorded = ledger.record_job(attempt, "A", "late", now=13.0)
    assert not recorded.is_kept
    assert recorded.attempt.job_id is None
    assert recorded.to_cancel == ("late",)
    assert [(j.job_id, j.is_duplicate) for j in ledger.state(run.id).jobs_to_cancel] == [
        ("late", True)
    ]
    assert as_it_is(ledger, other) == other


@pytest.mark.parametrize("retry", [True, False])
def test_failing(ledger, retry):
    run, block = planned(ledger)
    chunk = block.chunks[0]
    attempt = posted(ledger, chunk)
    fail = lambda retry, usage=None: ledger.fail_attempt(  # noqa: E731
        attempt, usage_seconds=usage, error="code 1305", retry=retry, now=40.0
    )
    failed = fail(retry)
    assert (failed.state, failed.error, failed.finished_at) == ("failed", "code 1305", 40.0)
    assert ledger.state(run.id).budget.reserved_seconds == 20  # its usage is not known
    assert fail(not retry, usage=2.5).usage_seconds == 2.5  # the first report counts
    assert fail(retry, usage=9.9).usage_seconds == 2.5
    assert ledger.state(run.id).budget.used_seconds == 2.5
    assert ledger.state(chunk.run_id).chunk(chunk.id).state == ("unsent" if retry else "failed")
    if not retry:
        assert claimed(ledger, chunk) is None
        assert ledger.retry_failed_chunks(run.id) == 1
    assert ledger.retry_failed_chunks(run.id) == 0
    again = posted(ledger, chunk, job="second")
    assert (again.number, again.tag) == (2, attempt.tag.removesuffix("1") + "2")
    assert [a.number for a in ledger.state(run.id).attempts(chunk_id=chunk.id)] == [1, 2]
    assert ledger.state(run.id).attempts(states=[AttemptState.FAILED]) == (fail(retry),)


def test_only_a_job_fails(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    with pytest.raises(LedgerConflictError, match=r"chunk \d+: attempt 1 \(no job\) is 'intent'"):
        ledger.fail_attempt(attempt, usage_seconds=0.0, error="", retry=True, now=12.0)
    done = posted(ledger, block.chunks[1])
    store(ledger, done, block.chunks[1])
    with pytest.raises(LedgerConflictError, match=r"\(job job-\d+\) is 'done'.*cannot have failed"):
        ledger.fail_attempt(done, usage_seconds=0.0, error="", retry=True, now=50.0)
    with pytest.raises(ValueError, match="usage_seconds >= 0"):
        ledger.record_usage(done, -1.0)


def test_cancelling_a_run(ledger):
    run, block = planned(ledger, pixels=8)
    never, begun, sent, free = block.chunks
    reserve = {"reserve": 10}
    a_never, a_begun = claimed(ledger, never, **reserve), claimed(ledger, begun, **reserve)
    ledger.begin_post(a_begun, "A", now=11.0, lease_seconds=LEASE)
    a_sent = posted(ledger, sent, **reserve)
    assert ledger.state(run.id).jobs_to_cancel == ()
    ledger.cancel_run(run.id, now=20.0, reason="enough")
    jobs = ledger.state(run.id).jobs_to_cancel
    assert [(job.job_id, job.attempt, job.is_duplicate) for job in jobs] == [
        (a_sent.job_id, a_sent, False)
    ]
    ledger.cancel_run(run.id, now=30.0, reason="again")
    assert ledger.state(run.id).jobs_to_cancel == jobs
    assert (ledger.get_run("digits").cancelled_at, ledger.get_run("digits").cancel_reason) == (
        20.0,
        "enough",
    )
    assert not ledger.begin_post(a_never, "A", now=21.0, lease_seconds=LEASE)
    assert as_it_is(ledger, a_never).state == AttemptState.CANCELLED
    assert as_it_is(ledger, a_begun).state == AttemptState.INTENT
    with pytest.raises(LedgerConflictError, match=r"'digits' was cancelled; .*Resume it first"):
        claimed(ledger, free)
    with pytest.raises(LedgerConflictError, match="was cancelled"):
        ledger.open_session(run.id, "batch", "A", now=21.0)
    ledger.cancel_attempt(a_sent, usage_seconds=1.5, now=22.0)
    assert ledger.cancel_attempt(a_sent, usage_seconds=9.0, now=23.0).usage_seconds == 1.5
    ledger.cancel_attempt(a_begun, usage_seconds=None, now=22.0, owner="A")
    assert ledger.state(run.id).jobs_to_cancel == ()
    assert (
        ledger.state(run.id).budget.reserved_seconds,
        ledger.state(run.id).budget.used_seconds,
    ) == (0, 1.5)
    assert ledger.resume_run(run.id)
    assert not ledger.resume_run(run.id)
    assert claimed(ledger, never).number == 2


def test_an_intent_is_cancelled_by_its_owner_only(ledger):
    _, block = planned(ledger)
    attempt = claimed(ledger, block.chunks[0])
    for owner in (None, "B"):
        with pytest.raises(LedgerConflictError, match="cannot be cancelled"):
            ledger.cancel_attempt(attempt, usage_seconds=None, now=20.0, owner=owner)
    ledger.begin_post(attempt, "A", now=11.0, lease_seconds=LEASE)
    ledger.take_over(attempt, "B", now=200.0, lease_seconds=LEASE)
    with pytest.raises(LedgerConflictError, match="cannot be cancelled"):
        ledger.cancel_attempt(attempt, usage_seconds=None, now=201.0, owner="B")


# Results


def test_storing_a_result(ledger):
    run, block = planned(ledger)
    chunk = block.chunks[0]
    attempt = posted(ledger, chunk)
    assert ledger.results(ledger.state(run.id).all_chunks) == ()
    result = store(ledger, attempt, chunk)
    evs, stds = values(chunk)
    for found in (result, store(ledger, attempt, chunk, usage=99.0, now=99.0)):
        assert found.evs.tobytes() == evs.tobytes()
        assert found.stds.tobytes() == stds.tobytes()
        assert found.extras.keys() == {"reference"}
        assert (found.extras["reference"] == np.arange(3.0)).all()
        assert (found.shots, found.usage_seconds, found.stored_at) == (100, 7.5, 30.0)
        assert (found.attempt_number, found.job_id) == (1, attempt.job_id)
        assert found.chunk.state == ChunkState.DONE
    assert as_it_is(ledger, attempt).state == AttemptState.DONE
    with pytest.raises(LedgerConflictError, match=r"'digits', layer 'features.0', chunk \d+ has a"):
        store(ledger, attempt, chunk, seed=1)
    stored, evs[0, 0] = evs[0, 0], np.nextafter(evs[0, 0], 2.0)  # of another processor
    again = ledger.store_result(
        attempt, evs, stds, shots=100, usage_seconds=None, now=40.0, extras=result.extras
    )
    assert again.evs[0, 0] == stored
    evs[0, 0] = stored + 2e-6  # one shot of a million
    with pytest.raises(LedgerConflictError, match="differs from the one that is to be stored"):
        ledger.store_result(
            attempt, evs, stds, shots=100, usage_seconds=None, now=40.0, extras=result.extras
        )
    assert claimed(ledger, chunk) is None
    assert [r.chunk.id for r in ledger.results(block.chunks)] == [chunk.id]
    assert ledger.results(block.chunks[1:]) == ()
    store(ledger, posted(ledger, block.chunks[1]), block.chunks[1])
    assert [r.chunk for r in ledger.results(ledger.state(run.id).all_chunks)] == list(
        ledger.state(run.id).chunks()
    )


def test_usage_that_comes_later(ledger):
    run, block = planned(ledger)
    attempt = posted(ledger, block.chunks[0])
    store(ledger, attempt, block.chunks[0], usage=None)
    assert ledger.state(run.id).budget.reserved_seconds == 20
    assert store(ledger, attempt, block.chunks[0], usage=4.0).usage_seconds == 4.0
    assert ledger.record_usage(attempt, 31.0).usage_seconds == 31.0  # beyond the cap: the truth
    assert (
        ledger.state(run.id).budget.reserved_seconds,
        ledger.state(run.id).budget.used_seconds,
    ) == (0, 31.0)


def test_results_that_are_refused(ledger):
    _, block = planned(ledger)
    chunk = block.chunks[0]
    attempt = claimed(ledger, chunk)
    evs, stds = values(chunk)
    put = lambda evs, stds, **given: ledger.store_result(  # noqa: E731
        attempt, evs, stds, **{"shots": 1, "usage_seconds": 1.0, "now": 30.0, **given}
    )
    with pytest.raises(LedgerConflictError, match=r"\(job None\) is 'intent'"):
        put(evs, stds)
    for wrong in (evs[:1], evs[0], np.zeros((3, 2))):
        with pytest.raises(ValueError, match=r"shape \(2, n\) for chunk"):
            put(wrong, wrong)
    with pytest.raises(ValueError, match=r"shape \(2, n\)"):
        put(evs, stds[:, :1])
    with pytest.raises(ValueError, match="Python objects in 'extra_x'"):
        put(evs, stds, extras={"x": np.array([{}])})
    with pytest.raises(ValueError, match="usage_seconds >= 0"):
        put(evs, stds, usage_seconds=-1.0)


def test_progress(ledger):
    run, block = planned(ledger, pixels=8)
    ledger.put_layer(run.id, "later", {}, "x")
    store(ledger, posted(ledger, block.chunks[0]), block.chunks[0])
    claimed(ledger, block.chunks[1])
    now, later = ledger.state(run.id).progress
    assert (now.layer, now.num_blocks, now.num_pixels) == (LAYER, 1, 8)
    assert now.num_chunks == {"unsent": 2, "open": 1, "done": 1, "failed": 0}
    assert (now.num_rows, now.num_rows_done, now.predicted_seconds_left) == (8, 2, 15.0)
    assert (later.layer, later.num_chunks[ChunkState.UNSENT]) == ("later", 0)
    assert [c.id for c in ledger.state(run.id).chunks(layer=LAYER, states=[ChunkState.DONE])] == [
        block.chunks[0].id
    ]


# Budget and sessions


def test_the_budget_is_reserved_with_the_intent(ledger):
    run, block = planned(ledger, pixels=8, budget=60.0)
    first, second, third, fourth = block.chunks
    attempt = posted(ledger, first, reserve=20)
    claimed(ledger, second, reserve=40)
    budget = ledger.state(run.id).budget
    assert (budget.reserved_seconds, budget.used_seconds, budget.left_seconds) == (60, 0, 0)
    with pytest.raises(
        BudgetError,
        match=r"'digits': 1 s more .* budget of 60 s \(0 s are used, 60 s are reserved .* Nothing",
    ):
        claimed(ledger, third, reserve=1)
    assert ledger.state(third.run_id).chunk(third.id).state == ChunkState.UNSENT
    assert len(ledger.state(run.id).attempts()) == 2
    assert claimed(ledger, third, reserve=0) is not None
    store(ledger, attempt, first, usage=7.5)
    assert ledger.state(run.id).budget.left_seconds == 12.5
    with pytest.raises(BudgetError, match="13 s more"):
        claimed(ledger, fourth, reserve=13)
    assert claimed(ledger, fourth, reserve=12) is not None
    budget = ledger.state(run.id).budget
    assert (budget.reserved_seconds, budget.used_seconds) == (40 + 0 + 12, 7.5)


def test_a_larger_budget_is_a_revision(ledger):
    run, block = planned(ledger, budget=10.0)
    with pytest.raises(BudgetError, match="add a revision with a larger budget"):
        claimed(ledger, block.chunks[0], reserve=11)
    ledger.add_revision(run.id, reason="more", content={}, max_qpu_seconds=11.0, now=3.0)
    assert claimed(ledger, block.chunks[0], reserve=11) is not None
    ledger.add_revision(run.id, reason="no limit", content={}, max_qpu_seconds=None, now=3.0)
    assert ledger.state(run.id).budget.left_seconds is None
    assert claimed(ledger, block.chunks[1], reserve=10**6) is not None


def test_duplicates_are_counted(ledger):
    run, block = planned(ledger, budget=60.0)
    attempt = posted(ledger, block.chunks[0], reserve=20)
    ledger.note_duplicates(attempt, ["other"], now=12.0)
    assert ledger.state(run.id).budget.reserved_seconds == 40
    with pytest.raises(ValueError, match="usage_seconds >= 0"):
        ledger.note_duplicate_cancelled(run.id, "other", now=13.0, usage_seconds=-1)
    ledger.note_duplicate_cancelled(run.id, "other", now=13.0, usage_seconds=3.0)
    budget = ledger.state(run.id).budget
    assert (budget.reserved_seconds, budget.used_seconds) == (20, 3.0)


def test_sessions(ledger):
    run, block = planned(ledger, budget=60.0)
    open_ = lambda mode, owner="A", reserve=0: ledger.open_session(  # noqa: E731
        run.id, mode, owner, now=5.0, reserve_seconds=reserve
    )
    batch = open_("batch")
    assert open_("session", "B", 10) is None
    assert (batch.session_id, batch.mode, batch.closed_at) == (None, "batch", None)
    for _ in range(2):
        recorded = ledger.record_session(batch, "b-1")
        assert recorded.session_id == "b-1"
    with pytest.raises(LedgerConflictError, match=r"has the id b-1.* b-2 cannot take its place"):
        ledger.record_session(batch, "b-2")
    in_batch = ledger.claim_intent(
        block.chunks[0], "A", now=6.0, lease_seconds=9.0, reserve_seconds=20, session=batch.id
    )
    assert (in_batch.session, in_batch.is_billed_by_session) == (batch.id, False)
    closed = ledger.close_session(recorded, now=20.0, usage_seconds=None)
    assert closed.closed_at == 20.0
    assert ledger.close_session(recorded, now=30.0, usage_seconds=3.0).closed_at == 20.0
    assert ledger.state(run.id).budget.used_seconds == 0  # a batch costs nothing by itself
    with pytest.raises(LedgerConflictError, match="is closed, or is not of this run"):
        ledger.claim_intent(
            block.chunks[1], "A", now=6.0, lease_seconds=9.0, reserve_seconds=1, session=batch.id
        )
    with pytest.raises(BudgetError, match="41 s more"):
        open_("session", reserve=41)
    session = open_("session", reserve=40)
    paid = ledger.claim_intent(
        block.chunks[1], "A", now=6.0, lease_seconds=9.0, reserve_seconds=99, session=session.id
    )
    assert paid.is_billed_by_session
    assert ledger.state(run.id).budget.reserved_seconds == 60
    ledger.close_session(session, now=50.0, usage_seconds=55.5)
    assert ledger.state(run.id).budget.used_seconds == 55.5
    assert ledger.state(run.id).budget.left_seconds == -15.5  # recorded truthfully
    with pytest.raises(BudgetError, match="0 s more would exceed"):
        open_("batch")
    assert [each.id for each in ledger.state(run.id).sessions] == [batch.id, session.id]
    for mode, reserve in (("session", 0), ("batch", 1), ("session", 1.5)):
        with pytest.raises(ValueError, match="whole seconds, > 0 in mode 'session'"):
            open_(mode, reserve=reserve)
    with pytest.raises(ValueError, match="'batch' or 'session'"):
        open_("dedicated")
    with pytest.raises(LedgerError, match="no session with id 999"):
        ledger.record_session(replace(session, id=999), "x")


def test_several_runs_do_not_mix(ledger):
    run, block = planned(ledger)
    other, _ = planned(ledger, name="other", run_id=None)
    posted(ledger, block.chunks[0])
    assert ledger.state(other.id).attempts() == ()
    assert ledger.state(other.id).budget.reserved_seconds == 0
    assert {c.state for c in ledger.state(other.id).chunks()} == {ChunkState.UNSENT}
    ledger.cancel_run(other.id, now=5.0, reason="")
    assert ledger.get_run(run.id).cancelled_at is None
    assert isinstance(run, Run)


def test_tags_are_short(ledger):
    """No limit is documented; IBM's error 1205 says that there is one."""
    _, block = planned(ledger)
    tag = claimed(ledger, block.chunks[0]).tag
    assert re.fullmatch(r"qpc-[0-9a-f]{12}-\d+-1", tag)
    assert len(tag.replace(f"-{block.chunks[0].id}-", f"-{10**9}-")) < 40


def test_what_was_a_method_before_there_was_a_state(ledger):
    run, block = planned(ledger)
    claimed(ledger, block.chunks[0])
    for name in ("layers", "revisions", "sessions", "duplicates", "budget", "jobs_to_cancel"):
        with pytest.warns(DeprecationWarning, match=rf"ledger.state\(run_id\).{name}"):
            assert getattr(ledger, name)(run.id) == getattr(ledger.state(run.id), name)
    with pytest.warns(DeprecationWarning, match="Ledger.attempts"):
        assert ledger.attempts(run.id, states=[AttemptState.INTENT])[0].number == 1
    with pytest.warns(DeprecationWarning, match="Ledger.chunks"):
        assert len(ledger.chunks(run.id, layer=LAYER, states=None)) == len(block.chunks)
    with pytest.raises(AttributeError, match="no attribute 'attemps'"):
        ledger.attemps(run.id)
