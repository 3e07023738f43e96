"""The loss equals that of torch, and sums of it add up."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captioner.training import losses
from captioner.training.losses import LossSum, cross_entropy


def example(words=50, vocabulary=13, size=7):
    torch.manual_seed(0)
    output = nn.Linear(size, vocabulary)
    hidden = torch.randn(words, size, requires_grad=True)
    return hidden, output, torch.randint(vocabulary, (words,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_loss_and_gradients_equal_those_of_torch_for_any_number_of_rows_at_a_time(
    smoothing, rows, monkeypatch
):
    monkeypatch.setattr(losses, "_LOGITS_AT_ONCE", rows * 13)
    hidden, output, targets = example()
    expected = F.cross_entropy(output(hidden), targets, reduction="sum", label_smoothing=smoothing)
    (3 * expected).backward()
    wanted = [hidden.grad, output.weight.grad, output.bias.grad]
    hidden.grad = output.weight.grad = output.bias.grad = None
    loss = cross_entropy(hidden, output, targets, label_smoothing=smoothing)
    (3 * loss.total).backward()
    torch.testing.assert_close(loss.total, expected)
    for got, want in zip([hidden.grad, output.weight.grad, output.bias.grad], wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weight_multiplies_the_loss_of_its_token(smoothing):
    hidden, output, targets = example()
    weights = torch.randn(50)
    each = F.cross_entropy(output(hidden), targets, reduction="none", label_smoothing=smoothing)
    (weights * each).sum().backward()
    wanted = [hidden.grad, output.weight.grad, output.bias.grad]
    hidden.grad = output.weight.grad = output.bias.grad = None
    loss = cross_entropy(hidden, output, targets, label_smoothing=smoothing, weights=weights)
    loss.total.backward()
    torch.testing.assert_close(loss.total, (weights * each).sum())
    for got, want in zip([hidden.grad, output.weight.grad, output.bias.grad], wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_in_bfloat16_the_loss_is_close_and_gradients_keep_their_type():
    hidden, output, targets = example()
    exact = cross_entropy(hidden, output, targets).total
    with torch.autocast("cpu", torch.bfloat16):
        near = cross_entropy(hidden, output, targets).total
    near.backward()
    torch.testing.assert_close(near, exact, rtol=2e-2, atol=0)
    assert hidden.grad.dtype == output.weight.grad.dtype == torch.float32


def test_the_losses_of_two_halves_add_up_to_the_whole():
    hidden, output, targets = example()
    halves = cross_entropy(hidden[:20], output, targets[:20]) + cross_entropy(
        hidden[20:], output, targets[20:]
    )
    whole = cross_entropy(hidden, output, targets)
    assert int(halves.count) == int(whole.count) == 50
    assert halves.mean == pytest.approx(whole.mean)


def test_the_mean_of_added_losses_weighs_every_token_equally():
    few, many = (
        LossSum(torch.tensor(2.0), torch.tensor(1)),
        LossSum(torch.tensor(4.0), torch.tensor(3)),
    )
    assert (few + many).mean == pytest.approx(6 / 4)
