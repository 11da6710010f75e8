"""Processes that die, race and take turns: the ledger is before or after a step, never between."""

import random
from collections import Counter

import ledgers
import pytest
from ledgers import NO_POSTGRES, POSTGRES, STEPS, planned, postgres_schema
from processes import CONTEXT, elsewhere, together

from hardware_runs.ledger import OPEN_STATES, AttemptState, ChunkState, Ledger
from qpc_qiskit.errors import BudgetError, LedgerConflictError


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request, tmp_path):
    """Two empty places for ledgers."""
    if request.param == "sqlite":
        yield str(tmp_path / "a.db"), str(tmp_path / "b.db")
        return
    if not POSTGRES:
        pytest.skip(NO_POSTGRES)
    with postgres_schema("qpc_test_a") as a, postgres_schema("qpc_test_b") as b:
        yield a, b


def test_every_writing_method_is_a_step():
    """A new method joins the crash tests, or this fails."""
    reading = {"blob", "close", "find_run", "get_run", "list_runs", "name"}
    reading |= {"results", "rows", "state"}
    public = {name for name in dir(Ledger) if not name.startswith("_")}
    assert public == reading | set(STEPS)


@pytest.mark.parametrize(
    ("steps", "every"),
    [
        (["freeze_block", "claim_intent", "store_result"], 2),
        pytest.param([*STEPS], 1, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
@pytest.mark.slow
def test_killed_at_moments_of_steps(places, steps, every):
    deaths = elsewhere(ledgers.kill_everywhere, *places, steps, every)
    assert [*deaths] == steps
    assert min(deaths.values()) >= 4  # version, read, write, commit


def test_an_error_at_every_moment_of_every_step(places):
    """An exception, such as Ctrl-C, instead of a death: the same ledger object goes on."""

    class Stop(BaseException):
        pass

    with Ledger(places[0]) as ledger:
        for name, (prepare, act) in STEPS.items():
            ledgers.clear(ledger)
            prepared = prepare(ledger)
            before = ledgers.dump(ledger)
            for moment in range(1000):

                def stop(k, moment=moment):
                    if k == moment:
                        raise Stop

                remove = ledgers.on_each_event(ledger, stop)
                try:
                    act(ledger, prepared)
                    break
                except Stop:
                    pass
                finally:
                    remove()
                assert ledgers.dump(ledger) == before, (name, moment)
            assert moment >= 4
            assert ledgers.dump(ledger) != before


def test_racing_processes_have_one_winner(places):
    with Ledger(places[0]) as ledger:
        run, block = planned(ledger, pixels=80, budget=100.0)
        barrier = CONTEXT.Barrier(2)
        found = together([(ledgers.race, places[0], run.id, me, barrier) for me in ("A", "B")])
        chunks = [chunk.id for chunk in block.chunks]
        won = [chunk for _, claims, _, _ in found for chunk in claims]
        assert len(won) == len(set(won)) == 33  # 33 * 3 s <= 100 s
        assert set(won) <= set(chunks)
        assert all(refused for _, _, refused, _ in found)
        assert ledger.state(run.id).budget.reserved_seconds == 99
        taken = [chunk for *_, takes in found for chunk in takes]
        assert sorted(taken) == sorted(won)
        for name, _, _, takes in found:
            for chunk in takes:
                (attempt,) = ledger.state(run.id).attempts(chunk_id=chunk)
                assert attempt.owner == f"{name}'"


def test_processes_that_make_one_ledger(places):
    barrier = CONTEXT.Barrier(2)
    assert together([(ledgers.open_at_once, places[0], barrier)] * 2) == [0, 0]


LAG = 59.0
POST_SECONDS = 30.0
LEASE = 31.0
BUDGET = 45.0
OUTCOMES = ("accepted", "refused", "dies before the POST", *2 * ["dies after the POST"])
ENDS = ("done", "failed", "failed", "cancelled", "cancelled")


class Walk:
    """Owners that crash anywhere, a service whose listing lags: one job per attempt, in budget.

    An owner is a process: what it knows is lost when it crashes, and its successor has another
    name. A POST ends before its lease does.
    """

    def __init__(self, ledger, rng, num_chunks):
        self.ledger, self.rng = ledger, rng
        self.run, block = planned(ledger, pixels=num_chunks, size=1, budget=BUDGET)
        self.chunks = [chunk.id for chunk in block.chunks]
        self.now = 100.0
        self.births = 0
        self.owners = [self.born(), self.born()]
        self.jobs = {}  # tag -> [(job id, accepted at)]
        self.paid = {}  # attempt id -> usage
        self.seen = Counter()

    def born(self):
        self.births += 1
        return f"owner {self.births}"

    def pick(self, state):
        found = self.ledger.state(self.run.id).attempts(states=[state])
        return self.rng.choice(found) if found else None

    def post(self, attempt, owner):
        """Begin, POST, record; the process may die in between, or the POST be refused."""
        try:
            if not self.ledger.begin_post(attempt, owner, now=self.now, lease_seconds=LEASE):
                return
        except LedgerConflictError:
            self.seen["post not allowed"] += 1
            return
        outcome = self.rng.choice(OUTCOMES)
        self.seen[outcome] += 1
        if outcome == "dies before the POST":
            self.crash(owner)
        elif outcome == "refused":
            assert self.ledger.release_intent(attempt, owner, "429")
        else:
            jobs = self.jobs.setdefault(attempt.tag, [])
            jobs.append((f"{attempt.tag}/{len(jobs)}", self.now))
            self.now += POST_SECONDS
            if outcome == "dies after the POST":
                self.crash(owner)
            else:
                recorded = self.ledger.record_job(attempt, owner, jobs[-1][0], now=self.now)
                assert recorded.is_kept

    def crash(self, owner):
        self.owners[self.owners.index(owner)] = self.born()

    def claim_and_post(self):
        owner = self.rng.choice(self.owners)
        chunk = self.ledger.state(self.run.id).chunk(self.rng.choice(self.chunks))
        reserve = self.rng.choice([10, 20])
        before = self.ledger.state(self.run.id).budget
        try:
            attempt = self.ledger.claim_intent(
                chunk, owner, now=self.now, lease_seconds=LEASE, reserve_seconds=reserve
            )
        except BudgetError:
            self.seen["over budget"] += 1
            assert before.left_seconds < reserve
            assert self.ledger.state(self.run.id).budget == before
            return
        assert (attempt is not None) == (chunk.state == ChunkState.UNSENT)
        if attempt is not None:
            self.seen["reused" if attempt.error else "claimed"] += 1
            self.post(attempt, owner)

    def take_over(self):
        owner = self.rng.choice(self.owners)
        attempt = self.pick(AttemptState.INTENT)
        if attempt is not None:
            taken = self.ledger.take_over(attempt, owner, now=self.now, lease_seconds=LEASE)
            assert (taken is not None) == (attempt.lease_expires_at <= self.now)
            self.seen["taken over"] += taken is not None

    def look_up_then_post(self):
        attempt = self.pick(AttemptState.INTENT)
        if attempt is None or attempt.owner not in self.owners:
            return
        owner = attempt.owner
        listed = [job for job, at in self.jobs.get(attempt.tag, ()) if at + LAG <= self.now]
        if listed:
            self.seen["found"] += 1
            self.ledger.record_job(attempt, owner, listed[0], now=self.now, duplicates=listed[1:])
            return
        self.ledger.note_empty_lookup(attempt, owner, now=self.now)
        if self.rng.random() < 0.4:
            released = self.ledger.release_intent(attempt, owner, "stopped")
            self.seen["given back" if released else "not given back"] += 1
        else:
            self.post(attempt, owner)

    def collect(self):
        attempt = self.pick(AttemptState.POSTED)
        if attempt is None:
            return
        usage, ended = self.rng.uniform(0, 12), self.rng.choice(ENDS)
        if ended == "done":
            chunk = self.ledger.state(attempt.run_id).chunk(attempt.chunk_id)
            ledgers.store(self.ledger, attempt, chunk, usage=usage, now=self.now)
        elif ended == "failed":
            self.ledger.fail_attempt(
                attempt, usage_seconds=usage, error="", retry=True, now=self.now
            )
        else:
            self.ledger.cancel_attempt(attempt, usage_seconds=usage, now=self.now)
        self.paid[attempt.id] = usage

    def wait(self):
        self.now += self.rng.choice([1.0, 1.0, 15.0, 60.0])

    def step(self):
        actions = [self.claim_and_post, self.take_over, self.look_up_then_post, self.wait]
        self.rng.choices([*actions, self.collect], weights=[4, 5, 6, 3, 2])[0]()
        self.check()

    def check(self):
        assert all(len(jobs) == 1 for jobs in self.jobs.values()), "a chunk was paid twice"
        attempts = self.ledger.state(self.run.id).attempts()
        budget = self.ledger.state(self.run.id).budget
        held = sum(a.reserved_seconds for a in attempts if a.state in OPEN_STATES)
        assert budget.reserved_seconds == held
        assert budget.used_seconds == pytest.approx(sum(self.paid.values()))
        over = sum(
            max(0.0, self.paid[a.id] - a.reserved_seconds) for a in attempts if a.id in self.paid
        )
        assert held + budget.used_seconds - over <= BUDGET + 1e-9
        for chunk in self.ledger.state(self.run.id).chunks():
            mine = [a for a in attempts if a.chunk_id == chunk.id]
            assert [a.number for a in mine] == list(range(1, len(mine) + 1))
            assert sum(a.state in OPEN_STATES for a in mine) == (chunk.state == ChunkState.OPEN)
            done = sum(a.state == AttemptState.DONE for a in mine)
            assert done == (chunk.state == ChunkState.DONE)


@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_one_job_per_attempt_and_within_the_budget(tmp_path, test_seed, is_thorough):
    # A walk that avoids the hard places shows nothing.
    expected = {*OUTCOMES, "over budget", "reused", "claimed", "taken over", "found"}
    expected |= {"not given back", "post not allowed"}
    if not is_thorough:
        expected -= {"refused", "reused"}  # seldom
    seen = Counter()
    for k in range(12):
        with Ledger(tmp_path / f"{k}.db") as ledger:
            walk = Walk(ledger, random.Random(test_seed + k), num_chunks=(3, 1, 1)[k % 3])
            for _ in range(50):
                walk.step()
            assert ledger.state(walk.run.id).duplicates == ()
            seen += walk.seen
        if not is_thorough and k > 2 and expected <= set(seen):
            break
    assert expected <= set(seen), seen
