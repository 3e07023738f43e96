"""Micro-batches and ranks: the gradients equal those of one process with the whole batch."""

import os
import socket
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing

from captioner.config.schema import DecoderConfig, ImageEncoderConfig, ModelConfig
from captioner.data.batching import collate
from captioner.distributed import Ranks, is_lost_connection, process_group
from captioner.models.build import build_model
from captioner.training.checkpoint import checkpoints
from captioner.training.loop import accumulate_gradients
from captioner.training.objectives import TeacherForcing


def objective_and_items():
    """Return a model without dropout, and eight images with captions of many lengths."""
    torch.manual_seed(0)
    sizes = DecoderConfig(embed_size=8, hidden_size=8, dropout=0)
    model = build_model(
        ModelConfig(encoder=ImageEncoderConfig(trunk="small_cnn"), decoder=sizes), vocab_size=20
    )
    features = torch.randn(8, 1, 256)
    items = [
        (features[i], [[1, *range(4, 4 + length), 2] for length in range(1 + i, 4 + i)], i)
        for i in range(8)
    ]
    return TeacherForcing(model), items


def gradients_of(objective):
    return {
        name: weight.grad
        for name, weight in objective.named_parameters()
        if weight.grad is not None
    }


def in_one_process(micro_batches):
    objective, items = objective_and_items()
    size = len(items) // micro_batches
    batches = [collate(items[start : start + size]) for start in range(0, len(items), size)]
    output = accumulate_gradients(
        objective,
        batches,
        progress=0.0,
        count=objective.count,
        ranks=Ranks(0, 1, torch.device("cpu")),
        precision="fp32",
    )
    return gradients_of(objective), output.loss


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_have_the_gradients_of_the_whole_batch(micro_batches):
    whole, loss = in_one_process(1)
    split, same_loss = in_one_process(micro_batches)
    assert loss.mean == pytest.approx(same_loss.mean)
    for name in whole:
        torch.testing.assert_close(split[name], whole[name])


def _one_of_two(rank, port, file):
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    objective, items = objective_and_items()
    shard = items[:3] if rank == 0 else items[3:]  # unequal numbers of tokens
    with process_group(torch.device("cpu"), timeout=timedelta(minutes=50)) as ranks:
        assert ranks.store.timeout == timedelta(minutes=50)
        micro_batches = [collate(shard[:2]), collate(shard[2:])]
        loss = accumulate_gradients(
            ranks.wrap(objective),
            micro_batches,
            progress=0.0,
            count=objective.count,
            ranks=ranks,
            precision="fp32",
        ).loss
    torch.save((gradients_of(objective), loss.total, loss.count), f"{file}{rank}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_ranks_with_unequal_shares_have_the_gradients_of_one_process(tmp_path):
    whole, loss = in_one_process(1)
    # spawned processes import torch again, but with an accelerator autograd allows no fork
    method = "spawn" if torch.accelerator.is_available() else "fork"
    arguments = (free_port(), str(tmp_path / "rank"))
    torch.multiprocessing.start_processes(_one_of_two, arguments, nprocs=2, start_method=method)
    for rank in range(2):
        shared, total, count = torch.load(tmp_path / f"rank{rank}")
        torch.testing.assert_close(total, loss.total.detach())
        assert count == loss.count
        for name in whole:
            torch.testing.assert_close(shared[name], whole[name])


def in_turn(work):
    """Call `work(rank)` on two ranks of one store, in threads; return the errors of the ranks."""
    store, errors, begun = torch.distributed.HashStore(), {}, []

    def run(rank):
        ranks = Ranks(rank, 2, torch.device("cpu"), store)
        try:
            for block in range(2):
                with ranks.first_rank_first():
                    begun.append((block, rank))
                    work(rank)
        except Exception as error:
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return begun, errors


@pytest.mark.parametrize("slow", [0, 1])
def test_the_first_rank_works_first_and_none_goes_on_before_all_have_worked(slow):
    begun, errors = in_turn(lambda rank: time.sleep(0.5 * (rank == slow)))
    assert begun == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert not errors


@pytest.mark.parametrize(("failing", "other"), [(0, 1), (1, 0)])
def test_the_failure_of_a_rank_ends_those_that_wait_for_it(failing, other):
    def work(rank):
        if rank == failing:
            raise OSError

    _, errors = in_turn(work)
    assert isinstance(errors[failing], OSError)
    assert is_lost_connection(errors[other])


@pytest.mark.slow
def test_a_run_on_two_ranks_ends_with_one_checkpoint_and_one_line_a_step(
    tiny, tmp_path, train_on_two_ranks
):
    phases = [{"epochs": 1}, {"epochs": 1, "finetune_from": "layer4"}]
    config = tiny(encoder={"trunk": "resnet18"}, training={"phases": phases})
    output = train_on_two_ranks(config)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-3", "checkpoint-6"]
    steps = [
        line
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert len(steps) == 6
    assert output.split() == [str(tmp_path / "run" / "best")]
