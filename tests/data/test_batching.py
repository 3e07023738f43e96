"""Batches hold each image once an epoch, for any number of ranks; padding is masked."""

import multiprocessing
import os
import random
import sys

import pytest
import torch

from captioner.data.batching import (
    CaptionDataset,
    EpochBatchSampler,
    ImageSource,
    Loader,
    collate,
    default_num_workers,
    sequential_batches,
    split_evenly,
)
from captioner.data.datasets import Example
from captioner.data.transforms import build_transform
from captioner.errors import ImageError
from captioner.text.tokenizer import BOS, EOS, PAD


def fake_source(index, rng):
    """Return the index and a random number in place of an image."""
    return torch.tensor([[index, rng.random()]])


def dataset(images=7, captions=5, **more):
    words = [
        [[1, 10 * image + number, *range(4, 4 + number), 2] for number in range(captions)]
        for image in range(images)
    ]
    return CaptionDataset(fake_source, words, **{"captions_per_image": 5, "seed": 0} | more)


def batches_of(sampler, epoch=0):
    sampler.epoch = epoch
    return [[index for _, index in batch] for batch in sampler]


def test_an_image_appears_once_with_all_its_captions():
    batch = collate([dataset()[0, 3], dataset()[0, 5]])
    assert batch.source[:, 0, 0].tolist() == batch.example_index.tolist() == [3, 5]
    assert sorted(batch.source_index.tolist()) == [0] * 5 + [1] * 5
    for row, source_index in zip(batch.tokens.tolist(), batch.source_index.tolist(), strict=True):
        assert row[1] // 10 == [3, 5][source_index]


def test_padding_and_only_padding_is_masked_and_the_shift_is_by_one():
    batch = collate([dataset()[0, 1]])
    for tokens, mask in zip(batch.tokens.tolist(), batch.mask.tolist(), strict=True):
        words = [token for token, real in zip(tokens, mask, strict=True) if real]
        assert words[0] == 1
        assert words[-1] == 2
        assert not any(tokens[len(words) :])
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert int(batch.target_mask.sum()) == int(batch.mask.sum()) - len(batch.tokens)


def test_captions_are_sorted_longest_first():
    lengths = collate([dataset()[0, 1], dataset()[0, 2]]).mask.sum(dim=1).tolist()
    assert lengths == sorted(lengths, reverse=True)


def test_surplus_captions_are_drawn_anew_in_each_epoch():
    rich = dataset(captions=9)
    chosen = [tuple(caption[1] for caption in rich[epoch, 2][1]) for epoch in range(5)]
    assert all(len(set(captions)) == 5 for captions in chosen)
    assert len(set(chosen)) > 1


def test_a_single_caption_changes_between_epochs_and_all_are_used():
    poor = dataset(captions_per_image=1)
    chosen = [caption[1] % 10 for epoch in range(50) for caption in poor[epoch, 2][1]]
    assert len(chosen) == 50
    assert set(chosen) == set(range(5))


def test_all_captions_are_returned_for_captions_per_image_all():
    rich = dataset(captions=9, captions_per_image="all")
    assert [caption[1] for caption in rich[0, 2][1]] == list(range(20, 29))


@pytest.mark.parametrize(("images", "batch_size"), [(97, 10), (20, 64), (64, 64), (65, 64), (1, 1)])
def test_an_epoch_holds_each_image_once_in_batches_of_nearly_equal_size(images, batch_size):
    batches = batches_of(EpochBatchSampler(images, batch_size, seed=0))
    assert sorted(index for batch in batches for index in batch) == list(range(images))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_the_order_depends_on_epoch_and_seed_only():
    assert batches_of(EpochBatchSampler(50, 8, seed=1)) == batches_of(
        EpochBatchSampler(50, 8, seed=1)
    )
    assert batches_of(EpochBatchSampler(50, 8, seed=1)) != batches_of(
        EpochBatchSampler(50, 8, seed=1), epoch=1
    )
    assert batches_of(EpochBatchSampler(50, 8, seed=1)) != batches_of(
        EpochBatchSampler(50, 8, seed=2)
    )


@pytest.mark.parametrize(("ranks", "micro_batches"), [(2, 1), (1, 3), (3, 2)])
def test_ranks_and_micro_batches_divide_the_batches_of_a_single_rank(ranks, micro_batches):
    whole = batches_of(EpochBatchSampler(97, 16, seed=0))
    shares = [
        batches_of(
            EpochBatchSampler(
                97, 16, seed=0, rank=rank, num_ranks=ranks, micro_batches=micro_batches
            )
        )
        for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {len(whole) * micro_batches}
    for number, batch in enumerate(whole):
        union = [
            i
            for share in shares
            for part in share[number * micro_batches : (number + 1) * micro_batches]
            for i in part
        ]
        assert union == batch


def test_a_sampler_resumes_at_a_batch():
    sampler = EpochBatchSampler(97, 10, seed=0, micro_batches=2)
    everything = batches_of(sampler, epoch=3)
    sampler.first_batch = 4
    assert batches_of(sampler, epoch=3) == everything[4 * 2 :]
    assert len(sampler) == len(everything) - 4 * 2


@pytest.mark.parametrize(("cores", "ranks", "workers"), [(16, 8, 2), (16, 1, 16), (2, 8, 1)])
def test_ranks_of_a_machine_share_its_cores_for_reading(monkeypatch, cores, ranks, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", f"{ranks}")
    assert default_num_workers() == workers


@pytest.mark.parametrize("workers", [0, 2])
def test_random_numbers_do_not_depend_on_the_number_of_workers(workers):
    sampler = EpochBatchSampler(7, 3, seed=0)
    loader = Loader(dataset(captions=9), sampler, workers=workers)
    expected = [
        collate([dataset(captions=9)[key] for key in keys])
        for keys in EpochBatchSampler(7, 3, seed=0)
    ]
    for got, want in zip(loader, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the default of Python holds")
def test_workers_share_the_memory_of_the_dataset_whatever_python_starts_by_default():
    default = multiprocessing.get_start_method()
    unpicklable = CaptionDataset(
        lambda index, rng: fake_source(index, rng), [[[1, 4, 2]]], captions_per_image=1, seed=0
    )
    multiprocessing.set_start_method("spawn", force=True)  # forkserver is the default of 3.14
    try:
        assert len(list(Loader(unpicklable, EpochBatchSampler(1, 1, seed=0), workers=1))) == 1
    finally:
        multiprocessing.set_start_method(default, force=True)


def test_reading_batches_draws_nothing_from_torchs_generator():
    before = torch.get_rng_state()
    list(Loader(dataset(), EpochBatchSampler(7, 3, seed=0), workers=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_sequential_batches_hold_everything_once_in_order():
    assert [index for batch in sequential_batches(7, 3) for _, index in batch] == list(range(7))


def test_an_even_split_holds_everything_in_order():
    rng = random.Random(0)
    for _ in range(50):
        count, parts = rng.randrange(0, 100), rng.randrange(1, 10)
        runs = [list(range(count))[part] for part in split_evenly(count, parts)]
        assert [item for run in runs for item in run] == list(range(count))
        assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_an_image_that_cannot_be_read_is_named_from_a_worker_too(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"")
    source = ImageSource(
        [Example(1, tmp_path / "broken.jpg", ("a dog",))], build_transform("squash", 8)
    )
    loader = Loader(
        CaptionDataset(source, [[[1, 4, 2]]], 5, 0), sequential_batches(1, 1), workers=1
    )
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        list(loader)


def test_texts_are_padded_to_the_longest_source_of_their_batch():
    samples = [
        (torch.tensor([4, 5, 6]), [[BOS, 7, EOS]], 0),
        (torch.tensor([8]), [[BOS, 9, 9, EOS]], 1),
    ]
    batch = collate(samples)
    assert batch.source.tolist() == [[4, 5, 6], [8, PAD, PAD]]
    assert batch.source_index.tolist() == [1, 0]  # the longest caption comes first


@pytest.mark.parametrize("ranks", [1, 2])
def test_with_lengths_each_row_comes_once_in_batches_of_similar_length(ranks):
    rng = random.Random(0)
    lengths = [rng.randint(1, 40) for _ in range(2_000)]
    samplers = [
        EpochBatchSampler(2_000, 20, 0, rank=rank, num_ranks=ranks, lengths=lengths)
        for rank in range(ranks)
    ]
    shares = [list(sampler) for sampler in samplers]
    batches = [[row for part in parts for _, row in part] for parts in zip(*shares, strict=True)]
    assert sorted(row for batch in batches for row in batch) == list(range(2_000))
    spread = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches
    ]
    assert sum(spread) / len(spread) < 2  # 37 on average if batches were drawn at random
    means = [lengths[batch[0]] for batch in batches]
    assert means != sorted(means)  # the batches themselves are shuffled
    samplers[0].epoch = 1
    assert list(samplers[0]) != shares[0]
    samplers[0].first_batch = 7
    resumed = list(samplers[0])
    samplers[0].first_batch = 0
    assert list(samplers[0])[7:] == resumed
