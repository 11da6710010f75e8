"""Durable runs for tests: a network of two quantum layers, processes that end, effects watched."""

import math
from contextlib import contextmanager

import torch
from torch import nn

from hardware_runs import Rules, durable
from hardware_runs.ledger import ChunkState, Ledger
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.errors import ResultsPending
from qpc_qiskit.nets import quantum_layers

START = 1_800_000_000.0
LEASE = 600.0
RULES = Rules(lease_seconds=LEASE, posts_per_minute=100)
"""Tests that are about neither need not move the clock for them."""
LEDGER_EFFECTS = (
    *(
        "create_run",
        "add_revision",
        "add_circuits",
        "set_budget",
        "put_layer",
        "freeze_block",
        "claim_intent",
        "begin_post",
    ),
    *("note_empty_lookup", "take_over", "drop_lease", "release_intent", "record_job"),
    *("note_duplicates", "fail_attempt", "cancel_attempt", "record_usage", "store_result"),
    *("open_session", "record_session", "close_session", "note_duplicate_cancelled"),
    *("cancel_run", "resume_run", "move_unsent_chunks", "deal_anew", "retry_failed_chunks"),
    "renew_lease",
)
SERVICE_EFFECTS = ("send", "cancel", "open_session", "close_session")
ROUNDING = 1e-5
"""How far logits of the same stored values may lie apart that were computed in other batches: some
units in the last place of float32 numbers below 10. One shot of 64 moves them by a thousandth."""


def moved_by_batch(model):
    """The model, whose classical layers round differently for every shape of a batch.

    Kernels of matrix products do so on some processors (MKL's with AVX-512) and not on others: here
    they do on all, so that a test that takes values of other batches for equal fails everywhere.
    """
    for module in model.modules():
        if (
            not isinstance(module, QuantumPointwiseConv2d)
            and not any(True for _ in module.children())
            and _move not in module._forward_hooks.values()
        ):
            module.register_forward_hook(_move)
    return model


def _move(module, inputs, output):
    """Outputs by up to an ulp off, the same ones for the same shape."""
    generator = torch.Generator().manual_seed(output.numel())
    ulps = torch.randint(-1, 2, output.shape, generator=generator)
    return output * (1 + ulps * torch.finfo(output.dtype).eps)


def network(seed=0, width=4):
    """Two quantum layers with a ReLU between them, and a linear one."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(3, 2)
    nn.init.normal_(head.weight, generator=generator)
    nn.init.zeros_(head.bias)
    return moved_by_batch(
        nn.Sequential(
            QuantumPointwiseConv2d(4, width, generator=generator),
            nn.ReLU(),
            QuantumPointwiseConv2d(width, 3, generator=generator),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            head,
        ).eval()
    )


def images(number=2, seed=1, size=1):
    """(number, 4, size, size)."""
    return torch.randn(number, 4, size, size, generator=torch.Generator().manual_seed(seed))


def shallow(seed=0):
    """One quantum layer: as much as most of what may go wrong needs, in half the time."""
    generator = torch.Generator().manual_seed(seed)
    layer = QuantumPointwiseConv2d(4, 2, generator=generator)
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


class Clock:
    """Seconds since the epoch that only tests move, together with the stand-in's."""

    def __init__(self, standin=None, now=START):
        self.now, self.standin = now, standin

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds
        if self.standin is not None:
            self.standin.advance(seconds)


def watch(thing, names, after, before=lambda name: None):
    """Have `before` and `after` told of each call of these methods of an object."""
    for name in names:
        if hasattr(thing, name):
            setattr(thing, name, _watched(getattr(thing, name), name, before, after))


def _watched(method, name, before, after):
    def call(*arguments, **named):
        before(name)
        found = method(*arguments, **named)
        after(name)
        return found

    return call


class Script:
    """A user's script: each `once` is a new process, as far as objects go.

    Args:
        path: of the ledger.
        backend: a name, or one of the stand-in's.
        clock: a `Clock`.
        model: the network; `network()` by default.
        given: to `durable`.
    """

    def __init__(self, path, backend="ibm_manila", clock=None, model=None, name="run", **given):
        self.path, self.backend, self.name = path, backend, name
        self.clock = clock or Clock()
        self.model = moved_by_batch(model or network())
        self.given = {"rules": RULES, "max_qpu_seconds": math.inf, **given}

    def engine(self, ledger=None, **given):
        """A new engine of the run."""
        return durable(
            ledger or self.path,
            self.name,
            self.backend,
            clock=self.clock,
            sleep=self.clock.advance,
            **{**self.given, **given},
        )

    def once(self, x, size=1, ledger=None, **given):
        """Logits of the images, in batches of some size.

        `self.rows` are then the values that each quantum layer gave, which come from the ledger.

        Raises:
            ResultsPending: not yet.
        """
        batches, seen = x.split(size), []
        with (
            _recorded(self.model, batches[0], seen),
            self.engine(ledger, **given) as engine,
            torch.no_grad(),
            use_engine(self.model, engine),
        ):
            found = torch.cat(engine.map(self.model, batches))
        num_layers = len(seen) // len(batches)
        self.rows = [torch.cat(seen[i::num_layers]) for i in range(num_layers)]
        return found

    def finish(self, x, size=1, step=61.0, limit=40, **given):
        """Run the script again and again, as time goes by, until it is done."""
        for _ in range(limit):
            try:
                return self.once(x, size, **given)
            except ResultsPending as error:
                last = error
                self.clock.advance(step)
        raise last

    def ledger(self):
        """The ledger and the run's id."""
        ledger = Ledger(self.path)
        return ledger, ledger.get_run(self.name).id


@contextmanager
def _recorded(model, first, seen):
    """Keep what the quantum layers give in `seen`, from each call with the first batch on."""

    def begin(module, inputs):
        if inputs[0] is first:
            seen.clear()

    hooks = [model.register_forward_pre_hook(begin)]
    for layer in quantum_layers(model).values():
        hooks.append(layer.register_forward_hook(lambda module, inputs, found: seen.append(found)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_replay(script, x, size, logits, rows=None, **given):
    """In other batches: the stored values to the bit, the logits as far as those are computed.

    Args:
        script: that has run.
        x: its images.
        size: of a batch.
        logits: that it gave.
        rows: that it read; None: at last.
        given: to the engine.
    """
    rows = script.rows if rows is None else rows
    found = script.once(x, size, **given)
    assert len(script.rows) == len(rows)
    assert all(map(torch.equal, script.rows, rows))
    torch.testing.assert_close(found, logits, rtol=0, atol=ROUNDING)


def check_paid_once(script, standin, duplicates=0, failed=0):
    """Every chunk is done by one job that counts, and the books balance."""
    ledger, run_id = script.ledger()
    jobs = [
        job
        for job in standin.records()["jobs"]
        if any(tag.startswith(f"qpc-{run_id.replace('-', '')[:12]}-") for tag in job["tags"])
    ]
    chunks = ledger.state(run_id).chunks()
    assert {chunk.state for chunk in chunks} == {ChunkState.DONE}
    assert len(jobs) == len(chunks) + duplicates + failed
    kept = {
        attempt.job_id: attempt for attempt in ledger.state(run_id).attempts() if attempt.job_id
    }
    extra = {duplicate.job_id for duplicate in ledger.state(run_id).duplicates}
    assert len(extra) == duplicates
    assert kept.keys() | extra == {job["job_id"] for job in jobs}
    used = sum(job["usage_seconds"] for job in jobs)
    budget = ledger.state(run_id).budget
    if not any(attempt.is_billed_by_session for attempt in kept.values()):
        assert abs(budget.used_seconds - used) < 1e-6
        assert budget.reserved_seconds == 0
    return jobs


def run_script(path, num_threads, size):
    """A whole script, for a process of its own: logits of 40 images, or None while they wait."""
    torch.set_num_threads(num_threads)
    try:
        return Script(path, shots=64, max_qpu_seconds=99).once(images(40), size).numpy()
    except ResultsPending:
        return None
