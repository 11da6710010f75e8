import math

import pytest
import torch
from torch import nn

from qpc_qiskit.training.evaluation import loss_of, predict, score


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(self.linear(images.flatten(1)))


def test_batches_change_nothing_and_training_mode_is_restored():
    torch.manual_seed(0)
    model = Stem().train()
    images = torch.randint(0, 256, (7, 1, 2, 2), dtype=torch.uint8)
    counted = []
    logits = predict(model, images, 3, counted.append)
    assert model.training
    assert counted == [3, 3, 1]
    assert not logits.requires_grad
    torch.testing.assert_close(logits, predict(model, images, 7))
    torch.testing.assert_close(logits, model.linear(images.flatten(1) / 255).detach())


def test_a_frozen_part_stays_in_evaluation_mode():
    model = Stem().train()
    model.dropout.eval()
    predict(model, torch.zeros(1, 1, 2, 2), 1)
    assert model.training
    assert not model.dropout.training


def test_training_mode_is_restored_after_an_error():
    model = Stem().train()

    def stop(count):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        predict(model, torch.zeros(1, 1, 2, 2), 1, stop)
    assert model.training


def test_score_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    result = score(logits, labels)
    losses = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))]
    assert result.loss == pytest.approx(sum(losses) / 3)
    assert result.accuracy == pytest.approx(2 / 3)
    assert score(logits, labels, "mse").loss == pytest.approx((1 + 0 + 0 + 1 + 9 + 0) / 6)


def test_losses_have_gradients():
    for name in ("cross-entropy", "mse"):
        logits = torch.zeros(2, 3, requires_grad=True)
        loss_of(logits, torch.tensor([0, 2]), name).backward()
        assert logits.grad[0, 0] < 0 <= logits.grad[0, 1]
