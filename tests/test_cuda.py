"""What a GPU computes is what the CPU computes: captions, training, errors, the service.

`pytest tests/test_cuda.py -m gpu -n 0` needs a CUDA device. CAPTIONER_TEST_DEVICE=cpu runs the same
tests on the CPU, to try them out. Numbers are compared in float32 without TF32, which cuDNN uses by
default for convolutions and RNNs: its products have 10 bits of mantissa.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from reliability.trainings import small
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from captioner import Captioner, Translator
from captioner.config.run import Config
from captioner.config.schema import (
    DecoderConfig,
    DecodingConfig,
    ImageEncoderConfig,
    InferenceConfig,
    ModelConfig,
)
from captioner.config.service import ServiceConfig
from captioner.config.training import PhaseConfig, SelfCriticalConfig, TrainingConfig
from captioner.data.batching import CaptionDataset, Loader, collate, sequential_batches
from captioner.data.datasets import Example
from captioner.decoding.search import length_limits
from captioner.devices import available_memory, pick_device
from captioner.distributed import Ranks
from captioner.errors import CaptionerError, UsageError
from captioner.models.build import build_model
from captioner.text.tokenizer import BOS, EOS, Vocabulary
from captioner.training.checkpoint import checkpoints, load_checkpoint
from captioner.training.loop import NotFiniteError, accumulate_gradients, train_step
from captioner.training.objectives import TeacherForcing
from captioner.training.optim import make_optimizer
from captioner.training.recorder import read_log
from captioner.training.train import train
from captioner.training.trainer import build_objective

ROOT = Path(__file__).parents[1]
DEVICE = os.environ.get("CAPTIONER_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE.startswith("cuda")
PHOTOS = sorted((ROOT / "examples").glob("*.jpg"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        ON_CUDA and not torch.cuda.is_available(), reason="this machine has no CUDA device"
    ),
]
only_on_cuda = pytest.mark.skipif(not ON_CUDA, reason="is about CUDA itself")


@pytest.fixture(autouse=True)
def without_tf32():
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    former = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, former, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture
def pair():
    """Return a function that loads model folders on the CPU and on the device."""

    def load(*folders, kind=Captioner, **options):
        if kind is Captioner:
            options = {"backend": "torch"} | options
        return [
            kind.from_pretrained(*folders, device=device, precision="fp32", **options)
            for device in ("cpu", DEVICE)
        ]

    return load


def everything(caption):
    """Return a caption and the others of its image: texts, and log-probabilities of words."""
    every = (caption, *caption.others)
    numbers = [[each.log_prob, *(word.log_prob for word in each.words)] for each in every]
    return [each.text for each in every], numbers


def assert_same_captions(found, expected, tolerance=1e-3):
    for one, other in zip(map(everything, found), map(everything, expected), strict=True):
        assert one[0] == other[0]
        for ours, theirs in zip(one[1], other[1], strict=True):
            assert ours == pytest.approx(theirs, abs=tolerance)


SEARCHES = {
    "greedy": {"beam": 1},
    "beam": {"beam": 5, "captions": 5},
    "normalised": {"beam": 3, "length_norm": "average", "min_length": 8},
    "diverse": {"beam": 6, "groups": 3, "captions": 6, "diversity": 1.0},
    "sample": {"method": "sample", "captions": 4, "seed": 3},
    "filtered": {"method": "sample", "captions": 4, "top_k": 40, "top_p": 0.9, "temperature": 0.8},
    "prefix": {"prefix": "a black", "beam": 3},
    "require": {"require": ["white", "two"], "beam": 4},
    "forbid": {"forbid": ["a", "man"], "no_repeat_words": True, "no_repeat_ngram": 2},
}


@pytest.mark.parametrize("decoding", SEARCHES.values(), ids=SEARCHES)
def test_the_bundled_model_finds_the_captions_that_the_cpu_finds(pair, decoding):
    # samples too: their random numbers follow from the seed and the image, and come from the CPU
    cpu, device = (each.caption(PHOTOS, decoding=decoding) for each in pair())
    assert len(PHOTOS) == 8
    assert_same_captions(device, cpu)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.1), ("bf16", 1.0), ("auto", 1.0)])
def test_given_captions_have_nearly_the_scores_of_the_cpu_with_tf32_and_in_bfloat16(
    pair, precision, tolerance
):
    """TF32 is on where it is by default, in cuDNN; tolerances are of a whole caption, in nats."""
    cpu, _ = pair()
    captions = [[each.text] for each in cpu.caption(PHOTOS)]
    torch.backends.cudnn.allow_tf32 = True
    device = Captioner.from_pretrained(device=DEVICE, precision=precision, backend="torch")
    expected, found = (list(each.score(PHOTOS, captions)) for each in (cpu, device))
    differences = [abs(a[0].log_prob - b[0].log_prob) for a, b in zip(expected, found, strict=True)]
    print(
        f"{precision}: differences of log-probabilities", *(f"{each:.4f}" for each in differences)
    )
    assert max(differences) < tolerance


def test_an_ensemble_captions_as_on_the_cpu(pair, untrained, shapes):
    folders = untrained(), untrained(cell="gru"), untrained(context="every_step")
    photos = sorted((shapes / "dev").iterdir())
    cpu, device = (each.caption(photos, decoding={"beam": 3}) for each in pair(*folders))
    assert_same_captions(device, cpu)


@pytest.mark.parametrize("context", ["none", "first_token", "every_step", "merge", "attention"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_context_and_cell_captions_as_on_the_cpu(pair, untrained, shapes, context, cell):
    folder = untrained(image_size=64, context=context, cell=cell, attention_size=16, layers=2)
    photos = sorted((shapes / "dev").iterdir())
    cpu, device = (each.caption(photos, decoding={"beam": 3}) for each in pair(folder))
    assert_same_captions(device, cpu)


@pytest.mark.parametrize("kind", ["attention", "occlusion"])
def test_heat_maps_are_near_those_of_the_cpu(pair, attentive_model, photo, kind):
    folders, image = ([attentive_model], photo) if kind == "attention" else ([], PHOTOS[0])
    cpu, device = (each.caption([image], explain=True)[0] for each in pair(*folders))
    assert cpu.text == device.text
    assert cpu.explanation == device.explanation == kind
    for ours, theirs in zip(device.words, cpu.words, strict=True):
        torch.testing.assert_close(
            torch.tensor(ours.heat), torch.tensor(theirs.heat), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize(
    "decoding", [{"beam": 3, "captions": 3}, {"method": "sample", "captions": 3}]
)
def test_texts_are_translated_as_on_the_cpu(pair, tiny_translator, decoding):
    texts = ["a dog runs .", "", "the bird sings . the man sleeps .", "a zebra ."]
    cpu, device = (
        each.translate(texts, decoding=decoding, align=True)
        for each in pair(tiny_translator, kind=Translator)
    )
    assert_same_captions(device, cpu)
    for ours, theirs in zip(device, cpu, strict=True):
        for one, other in zip(ours.alignment or (), theirs.alignment or (), strict=True):
            assert one == pytest.approx(other, abs=1e-3)


# -- the device itself


@only_on_cuda
def test_auto_is_cuda_for_captioning_and_for_training(tiny, capsys):
    assert pick_device("auto").type == "cuda"
    assert Captioner.from_pretrained().device.type == "cuda"
    train(small(tiny, training={"max_steps": 1}))
    assert "on cuda;" in capsys.readouterr().err.replace("\n", " ")


@only_on_cuda
def test_a_gpu_that_does_not_exist_is_refused_in_one_line(run, photo):
    name = f"cuda:{torch.cuda.device_count() + 6}"
    code, out, err = run("caption", photo, "--device", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"--device '{name}' does not exist: the GPUs of this machine are cuda:0" in err


@only_on_cuda
def test_the_available_memory_counts_what_torch_holds_but_does_not_use():
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = available_memory(device)
    block = torch.empty(2**28, device=device)  # 1 GiB
    assert before - available_memory(device) == pytest.approx(2**30, rel=0.05)
    del block
    assert available_memory(device) == pytest.approx(before, rel=0.01)


def test_a_search_that_needs_too_much_memory_is_refused(tiny_model, photo):
    captioner = Captioner.from_pretrained(tiny_model, device=DEVICE, backend="torch")
    with pytest.raises(UsageError, match=r"the search needs about .* of memory"):
        captioner.caption([photo], decoding={"beam": 10**9})


# -- training


def batch_of(images=4, size=64):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=generator)
    words = torch.randint(4, 30, (images, 2, 9), generator=generator).tolist()
    return collate(
        [
            (pixels[n].to(torch.uint8), [[BOS, *each[: 3 + n], EOS] for each in words[n]], n)
            for n in range(images)
        ]
    )


def gradients(device, objective_name, precision="fp32", **decoder):
    """Return loss and gradients of a batch without dropout; the CNN is trained too."""
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=ImageEncoderConfig(
            trunk="resnet18", weights="none", image_size=64, batch_norm="eval"
        ),
        decoder=DecoderConfig(
            embed_size=16, hidden_size=16, attention_size=16, dropout=0.0, **decoder
        ),
    )
    vocabulary = Vocabulary(["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{n}" for n in range(4, 30))])
    model = build_model(config, vocab_size=30).to(device)
    model.encoder.finetune("layer4")
    captions = [(" ".join(f"w{4 + (n * k) % 26}" for k in range(6)),) for n in range(4)]
    phase = PhaseConfig(
        objective=objective_name,
        scheduled_sampling={"schedule": "linear", "share": 1.0},
        self_critical=SelfCriticalConfig(baseline="greedy"),
    )
    objective = build_objective(
        phase,
        TrainingConfig(label_smoothing=0.1),
        model,
        vocabulary,
        [Example(n, Path(f"{n}.jpg"), each) for n, each in enumerate(captions)],
        limits=partial(length_limits, config=DecodingConfig(max_length=6)),
    ).train()
    output = accumulate_gradients(
        objective,
        [batch_of()],
        progress=1.0,
        count=objective.count,
        ranks=Ranks(0, 1, torch.device(device)),
        precision=precision,
    )
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    return output.loss.mean, {name: each.grad for name, each in trained.items()}


OBJECTIVES = ["teacher_forcing", "scheduled_sampling", "free_running", "self_critical"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("context", ["none", "attention"])
def test_loss_and_gradients_of_a_step_are_those_of_the_cpu(objective, context):
    # Scheduled sampling tosses no coins here: at the end of the phase all words are generated.
    (ours, found), (theirs, expected) = (
        gradients(device, objective, context=context) for device in (DEVICE, "cpu")
    )
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(found[name].cpu() / scale, gradient / scale, atol=1e-3, rtol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_weight_has_nearly_the_same_gradient_in_bfloat16(objective):
    """Autocast keeps cast weights: those of a search without gradients must not take them away."""
    _, exact = gradients(DEVICE, objective, context="attention")
    _, low = gradients(DEVICE, objective, "bf16", context="attention")
    ours, theirs = (
        torch.cat([each.float().flatten() for each in grads.values()]) for grads in (low, exact)
    )
    assert all(low[name].any() for name in exact if exact[name].any())
    if objective == "teacher_forcing":  # the others choose words, which rounding can change
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


def losses(output):
    return [line["loss"] for line in read_log(output) if "loss" in line]


def scores(output):
    return [line["dev_loss"] for line in read_log(output) if "dev_loss" in line]


def assert_near(one, other, tolerance=2e-3):
    """Compare logs, and the weights of the last checkpoints. GPUs add in another order."""
    assert losses(one) == pytest.approx(losses(other), rel=tolerance)
    assert scores(one) == pytest.approx(scores(other), rel=tolerance)
    ours, theirs = (load_file(checkpoints(each)[-1] / "model.safetensors") for each in (one, other))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor.float(), atol=5e-3, rtol=5e-3)


EXACT = {"decoder": {"embed_size": 16, "hidden_size": 16, "dropout": 0.0}}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_a_run_in_two_phases_learns_and_captions(tiny, tmp_path, precision):
    phases = [{"epochs": 4, "learning_rate": 1e-2}, {"epochs": 1, "finetune_from": "layer4"}]
    config = tiny(
        encoder={"trunk": "resnet18", "image_size": 64},
        training={"phases": phases, "precision": precision},
    )
    best = train(config, device=DEVICE)
    found = losses(config.output)
    assert found[-1] < found[0]
    [caption] = Captioner.from_pretrained(best, device=DEVICE).caption(PHOTOS[:1])
    assert isinstance(caption.text, str)


def test_float16_is_no_precision_of_training(tiny):
    with pytest.raises(UsageError, match=r"training\.precision"):
        small(tiny, training={"precision": "fp16"})


@pytest.mark.parametrize("objective", ["scheduled_sampling", "self_critical"])
@pytest.mark.parametrize("context", ["none", "attention"])
def test_each_objective_trains_with_ema_and_a_cache(tiny, objective, context):
    config = tiny(
        encoder={"trunk": "small_cnn"},
        decoder={"context": context, "attention_size": 8},
        training={
            "ema": 0.9,
            "validation_beam": 2,
            "phases": [{"epochs": 1}, {"epochs": 1, "objective": objective}],
        },
    )
    train(config, device=DEVICE)
    assert checkpoints(config.output)[-1].name == "checkpoint-6"


def test_a_run_without_dropout_is_near_that_of_the_cpu(tiny, tmp_path):
    """The moving average, features that are computed on the device, and images in memory."""
    outputs = [tmp_path / side / "run" for side in ("one", "other")]  # each has its own cache
    for output, device in zip(outputs, ("cpu", DEVICE), strict=True):
        more = {"ema": 0.5, "precision": "fp32"}
        train(small(tiny, output=output, training=more, **EXACT), device=device)
    assert_near(*outputs)


@pytest.mark.parametrize("context", ["none", "attention"])
def test_cached_features_are_near_those_of_the_cpu(tiny, tmp_path, context):
    features = []
    for side, device in (("one", "cpu"), ("other", DEVICE)):
        training = {"precision": "fp32", "max_steps": 1, "phases": [{"epochs": 1}]}
        output = tmp_path / side / "run"
        train(
            tiny(
                output=output,
                encoder={"image_size": 64},
                decoder={"context": context},
                training=training,
            ),
            device=device,
        )
        [file] = (output.parent / "features").glob("train*/features.npy")
        features.append(torch.from_numpy(np.load(file)).float())
    # they are stored as float16, whose numbers have 11 bits
    torch.testing.assert_close(*features, rtol=2**-9, atol=1e-3 * float(features[0].max()))


def test_four_micro_batches_have_the_outcome_of_one(tiny, tmp_path):
    for parts in (1, 4):
        # a frozen CNN: batch norms would learn from each micro-batch by itself
        more = {"accumulate": parts, "phases": [{"epochs": 2}], "precision": "fp32"}
        train(small(tiny, output=tmp_path / str(parts), training=more, **EXACT), device=DEVICE)
    assert_near(tmp_path / "4", tmp_path / "1")


@pytest.mark.parametrize(
    ("starts_on", "ends_on", "stop"),
    [(DEVICE, DEVICE, 2), (DEVICE, DEVICE, 4), (DEVICE, "cpu", 4), ("cpu", DEVICE, 2)],
)
def test_a_run_goes_on_from_its_checkpoint_also_on_the_other_device(
    tiny, tmp_path, starts_on, ends_on, stop
):
    """It stops within a phase and in the next one. Only on one device is dropout the same."""
    same = starts_on == ends_on
    more = {} if same else EXACT
    unbroken, broken = (
        small(
            tiny,
            output=tmp_path / name,
            training={"ema": 0.9, "checkpoint_every": 1, "precision": "fp32"},
            **more,
        )
        for name in ("unbroken", "broken")
    )
    train(unbroken, device=ends_on)
    settings = broken.training.model_copy(update={"max_steps": stop})
    train(broken.model_copy(update={"training": settings}), device=starts_on)
    train(broken, device=ends_on, resume="auto")
    assert losses(broken.output) == pytest.approx(losses(unbroken.output), rel=2e-3)
    assert_weights_near(unbroken.output, broken.output)
    states = load_checkpoint(checkpoints(broken.output)[-1]).rng_states
    assert [len(each) for each in states] == [2 if ends_on.startswith("cuda") else 1]


def assert_weights_near(one, other):
    ours, theirs = (load_file(checkpoints(each)[-1] / "model.safetensors") for each in (one, other))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor.float(), atol=5e-3, rtol=5e-3)


@pytest.mark.row(7)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_that_is_not_finite_changes_no_weight(precision):
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=ImageEncoderConfig(trunk="small_cnn", weights="none", image_size=64),
        decoder=DecoderConfig(embed_size=8, hidden_size=8),
    )
    model = build_model(config, vocab_size=30).to(DEVICE)
    with torch.no_grad():
        model.decoder.output.bias[5] = torch.inf
    objective = TeacherForcing(model)
    optimizer = make_optimizer(model, PhaseConfig(), weight_decay=0.1)
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(NotFiniteError, match="no step was taken"):
        train_step(
            objective,
            optimizer,
            [batch_of()],
            count=objective.count,
            ranks=Ranks(0, 1, torch.device(DEVICE)),
            precision=precision,
            gradient_clip=5.0,
        )
    assert all(torch.equal(*each) for each in zip(before, model.parameters(), strict=True))


@pytest.fixture
def little_memory():
    """Let torch allocate 500 MiB more of the GPU than it does now."""
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 500 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@only_on_cuda
@pytest.mark.row(8)
def test_a_gpu_that_runs_out_of_memory_is_told_and_auto_finds_parts_that_fit(
    tiny, tmp_path, little_memory, capsys
):
    def config(accumulate):
        return tiny(
            encoder={"image_size": 384, "trunk": "resnet18"},
            output=tmp_path / str(accumulate),
            training={
                "accumulate": accumulate,
                "batch_size": 24,
                "precision": "fp32",
                "phases": [{"epochs": 1, "finetune_from": "stem"}],
            },
        )

    with pytest.raises(
        CaptionerError,
        match=r"out of memory with training\.batch_size=24 .*set training\.accumulate to auto",
    ):
        train(config(1), device=DEVICE)
    assert not checkpoints(tmp_path / "1")
    train(config("auto"), device=DEVICE)
    assert "micro-batches from here on" in " ".join(capsys.readouterr().err.split())
    assert len(losses(tmp_path / "auto")) == 1


def dies(index, rng):
    if index == 5:
        os.kill(os.getpid(), 9)
    return torch.zeros(1, 1)


def hangs(index, rng):
    if index == 5:
        time.sleep(600)
    return torch.zeros(1, 1)


@pytest.mark.row(10)
@pytest.mark.parametrize(("load", "failure"), [(dies, "died"), (hangs, "timed out")])
def test_a_worker_that_dies_or_hangs_is_reported_where_memory_is_pinned(load, failure):
    data = CaptionDataset(load, [[[1, 4, 2]]] * 8, 5, 0)
    batches = sequential_batches(8, 2)
    loader = Loader(
        data, batches, workers=2, timeout=5, file_name="photo-{}.jpg".format, pin_memory=ON_CUDA
    )
    with pytest.raises(
        CaptionerError, match=rf"a worker process {failure} while reading photo-5\.jpg"
    ):
        list(loader)


@only_on_cuda
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_pinned_memory_and_arrive_whole(workers):
    def load(index, rng):
        return torch.full((2, 3), float(index))

    data = CaptionDataset(load, [[[1, 4, 2]]] * 8, 5, 0)
    loader = Loader(data, sequential_batches(8, 2), workers=workers, pin_memory=True)
    for number, batch in enumerate(loader):
        assert all(tensor.is_pinned() for tensor in batch)
        moved = batch.to(torch.device(DEVICE))
        assert moved.source[:, 0, 0].tolist() == [2.0 * number, 2.0 * number + 1]


# -- several processes


def torchrun(config, ranks):
    file = config.output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config.to_json()))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, *command, "-m", "captioner", "train", str(file), "--device", DEVICE],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=ROOT,
    )


def test_one_rank_of_torchrun_trains(tiny):
    config = small(tiny, training={"max_steps": 2})
    done = torchrun(config, 1)
    assert done.returncode == 0, done.stderr
    assert len(losses(config.output)) == 2


@only_on_cuda
def test_more_ranks_than_gpus_are_refused(tiny):
    gpus = torch.cuda.device_count()
    done = torchrun(small(tiny), gpus + 1)
    assert done.returncode != 0
    assert f"rank {gpus} has no GPU, this machine has {gpus}" in " ".join(done.stderr.split())


IN_A_GROUP_OF_ONE = """
import sys
import torch
import torch.distributed as dist
from captioner.distributed import Ranks

device = torch.device(sys.argv[1], 0) if sys.argv[1] == "cuda" else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)
backend = "nccl" if device.type == "cuda" else "gloo"
dist.init_process_group(backend, init_method="file://" + sys.argv[2], rank=0, world_size=1)
ranks = Ranks(0, 2, device)  # as in a larger group, whose operations it then calls
assert ranks.sum(torch.tensor([1.5, 2.0], device=device)).tolist() == [1.5, 2.0]
assert ranks.any(True) and not ranks.any(False)
ranks.wait()
values = [None]
dist.all_gather_object(values, {"a": [1, 2]})
assert values == [{"a": [1, 2]}]
module = torch.nn.Linear(3, 1, device=device)
inputs = torch.ones(2, 3, device=device)
module(inputs).sum().backward()
alone = module.weight.grad.clone()
module.zero_grad()
ranks.wrap(module)(inputs).sum().backward()
assert torch.equal(module.weight.grad, alone)
dist.destroy_process_group()
print("all agree")
"""


@pytest.mark.row(11)
def test_the_collective_operations_work_with_nccl(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IN_A_GROUP_OF_ONE, DEVICE, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert "all agree" in done.stdout, done.stderr


# -- text, and the service


def test_translation_trains_and_is_resumed(tmp_path):
    digits = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
    sources = [" ".join([a, b, c]) for a in digits for b in digits for c in digits]
    for suffix, lines in (
        ("en", sources),
        ("de", [" ".join(map(digits.get, each.split())) for each in sources]),
    ):
        (tmp_path / f"text.{suffix}").write_text("".join(f"{line}\n" for line in lines))
    files = {"source": tmp_path / "text.en", "target": tmp_path / "text.de"}
    values = {
        "data": {"train": files, "dev": files, "min_count": 1},
        "encoder": {"kind": "text", "embed_size": 16, "hidden_size": 16, "dropout": 0.0},
        "decoder": {
            "embed_size": 16,
            "hidden_size": 32,
            "dropout": 0.0,
            "context": "attention",
            "attention_size": 16,
        },
        "training": {"batch_size": 16, "phases": [{"epochs": 15, "learning_rate": 2e-2}]},
        "output": tmp_path / "run",
    }
    stopped = values | {"training": values["training"] | {"max_steps": 20}}
    train(Config.parse(stopped, source="test"), device=DEVICE)
    best = train(Config.parse(values, source="test"), device=DEVICE, resume="auto")
    translator = Translator.from_pretrained(best, device=DEVICE)
    assert translator.translate("two four one", align=True).text == "zwei vier eins"


def test_the_service_answers_as_the_library_and_makes_batches():
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from captioner.serve.app import build_app
    from captioner.serve.engine import Engine

    config = ServiceConfig()
    inference = InferenceConfig(device=DEVICE, precision="fp32", backend="torch")
    app = build_app(Engine([], inference, config), config)
    expected = Captioner.from_pretrained(device=DEVICE, precision="fp32").caption(PHOTOS)
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        end = time.monotonic() + 60
        while client.get("/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)

        def ask(photo):
            answer = client.post("/v1/caption", files={"file": ("p.jpg", photo.read_bytes())})
            assert answer.status_code == 200, answer.text
            return answer.json()["results"][0]["caption"]

        for _ in range(2):
            assert list(pool.map(ask, PHOTOS)) == [each.text for each in expected]


# -- DDP around an objective


@only_on_cuda
def test_an_objective_within_ddp_has_the_gradients_of_the_objective_alone(tmp_path):
    import torch.distributed as dist

    torch.cuda.set_device(0)
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("nccl", init_method=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        config = ModelConfig(
            encoder=ImageEncoderConfig(trunk="resnet18", weights="none", image_size=64),
            decoder=DecoderConfig(embed_size=8, hidden_size=8, dropout=0.0, context="attention"),
        )
        model = build_model(config, vocab_size=30).to("cuda:0")
        objective = TeacherForcing(model).train()
        wrapped = DistributedDataParallel(objective, device_ids=[0], broadcast_buffers=False)
        found = []
        for module in (objective, wrapped):
            module.zero_grad()
            output = accumulate_gradients(
                module,
                [batch_of(), batch_of(2)],
                progress=0.0,
                count=objective.count,
                ranks=Ranks(0, 1, torch.device("cuda:0")),
                precision="bf16",
            )
            grads = [each.grad for each in model.parameters() if each.grad is not None]
            found.append((output.loss.mean, nn.utils.get_total_norm(grads).item()))
        assert found[1] == pytest.approx(found[0], rel=1e-3)
    finally:
        dist.destroy_process_group()
