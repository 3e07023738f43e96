"""The loss equals that of torch, and sums of it add up."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captioner.training import losses
from captioner.training.losses import LossSum, cross_entropy
from captioner.training.recorder import describe_loss, loss_parts


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


def test_label_smoothing_is_a_part_of_the_loss_beside_that_of_validation():
    hidden, output, targets = example()
    plain = cross_entropy(hidden, output, targets)
    smoothed = cross_entropy(hidden, output, targets, label_smoothing=0.1)
    assert plain.penalties == {}
    torch.testing.assert_close(smoothed.total - smoothed.penalties["label_smoothing"], plain.total)
    assert not smoothed.penalties["label_smoothing"].requires_grad


def test_penalties_are_added_by_their_names():
    def with_penalty(total, count, **penalties):
        tensors = {name: torch.tensor(value) for name, value in penalties.items()}
        return LossSum(torch.tensor(total), torch.tensor(count), tensors)

    loss = with_penalty(9.0, 2, a=1.0) + with_penalty(8.0, 1, a=2.0, b=4.0)
    assert loss_parts(loss) == pytest.approx({"loss": (17 - 7) / 3, "a": 1.0, "b": 4 / 3})


def test_the_console_names_each_part_of_a_loss():
    penalties = {"attention_penalty": torch.tensor(26.1), "label_smoothing": torch.tensor(0.6)}
    loss = LossSum(torch.tensor(37.56), torch.tensor(3), penalties)
    assert describe_loss(loss, "teacher_forcing") == (
        "loss 3.620 (+ attention penalty 8.7, + label smoothing 0.2)"
    )
    assert describe_loss(LossSum(loss.total, loss.count), "teacher_forcing") == "loss 12.520"
    assert describe_loss(loss, "self_critical").startswith("self-critical loss 3.620 (")
