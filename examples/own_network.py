"""From your own `nn.Module` to a device: the code of docs/tutorial-own-network.md, as one script.

    python examples/own_network.py

It trains a small classical network on scikit-learn's digits, exchanges its 1x1 convolution for a
quantum one, tests it under a device's noise, prices a run, and runs it durably against a stand-in
of IBM's service. Nothing leaves this machine. It writes runs/ledger.sqlite, and the stand-in's jobs
to runs/standin.sqlite; when it is called again the run goes on there, or is found finished.
"""

# ruff: noqa: E402, SIM117 (imports where the tutorial needs them; short lines)

# 1. Your network
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.images))
images = (torch.tensor(digits.images, dtype=torch.float32) / 16)[order, None]  # (1797, 1, 8, 8)
labels = torch.tensor(digits.target)[order]
train_images, train_labels = images[:1437], labels[:1437]
test_images, test_labels = images[1437:], labels[1437:]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.mix = nn.Conv2d(8, 12, kernel_size=1, bias=False)  # the one to be exchanged
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12 * 4 * 4, 10)

    def forward(self, images):
        maps = self.norm(self.mix(self.stem(images)))
        return self.head(maps.relu().flatten(1))


def train(model, epochs):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_labels)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(train_images[rows]), train_labels[rows])
            loss.backward()
            optimizer.step()


def accuracy(model, num_images=None):
    model.eval()
    with torch.no_grad():
        predicted = model(test_images[:num_images]).argmax(1)
    return float((predicted == test_labels[:num_images]).float().mean())


classical = Net()
train(classical, epochs=10)
print(f"classical: {accuracy(classical):.1%}")

# 2. The quantum layer in its place
from qpc_qiskit.nets import replace_pointwise

generator = torch.Generator().manual_seed(0)
model, changes = replace_pointwise(classical, where=["mix"], generator=generator)
print(changes)

# 3. Train it
train(model, epochs=10)
print(f"quantum: {accuracy(model):.1%}")

# 4. On a noisy copy of a device
from qpc_qiskit import EstimatorEngine, NoisyEngine, use_engine
from qpc_qiskit.options.economy import best_options

with use_engine(model, NoisyEngine("fake_fez")):  # all test images
    print(f"under the noise of fake_fez: {accuracy(model):.1%}")

best = best_options(3)  # for circuits of three qubits; of several layers, the widest counts
local = {**best, "num_patches": 4}  # each place is simulated on its own: four will do
with EstimatorEngine.from_backend("fake_fez", shots=256, seed=1, **local) as engine:
    with use_engine(model, engine):  # 8 test images
        print("with 256 shots, at least 6 of 8 images right:", accuracy(model, 8) > 0.7)
print(engine.last_report.num_executions, "executions")

# 5. What it would cost
from hardware_runs.planning.plan import make_plan, planning_engine

few = test_images[:8]
planner = planning_engine("fake_fez", shots=256, **best)
plan = make_plan(model, [few], planner, rate=1.6)
print(f"{plan.num_rows} rows in {plan.num_executions} executions, {plan.num_jobs} job")
print(f"about {plan.qpu_seconds:.0f} s of QPU time, {plan.cost:.0f} dollars")
print(f"a budget that is surely enough: {plan.reserved_seconds} s")

# 6. A durable run
import time

import hardware_runs
from hardware_runs.standin import Rules, Standin
from qpc_qiskit.errors import ResultsPending


def run():
    with hardware_runs.durable(
        "runs/ledger.sqlite", "mine", "ibm_fez", shots=256, max_qpu_seconds=60, **best
    ) as engine:
        with torch.no_grad(), use_engine(model, engine):
            return torch.cat(engine.map(model, [few]))


# With an account of yours, leave the next line out. The file keeps the jobs for another call.
with Standin(Rules(queue_seconds=2), path="runs/standin.sqlite"):
    logits = None
    while logits is None:
        try:
            logits = run()
        except ResultsPending:  # the program may end here, and go on next week
            time.sleep(3)

correct = int((logits.argmax(1) == test_labels[:8]).sum())
print("at least 6 of 8 images right:", correct >= 6)
