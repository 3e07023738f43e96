"""Measure training on a GPU, part by part: python -m benchmarks.gpu --help.

A step is timed with its batch in memory, and the loader by itself, so each can be seen to limit the
other. Weights, photographs and captions are random numbers; sizes are those of COCO and of
configs/coco.yaml, with additive attention and an LSTM of 512.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captioner.devices import pick_device
from captioner.errors import UsageError, parameter
from captioner.models.folder import load_config
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.reporting import MISSING, cpu_name, markdown_table

if TYPE_CHECKING:
    from benchmarks.decoding_speed import Speed
    from benchmarks.training_steps import AttentionSetup, Format, Photographs, StageName, Trainee

ROOT = Path(__file__).parents[1]
PARTS = ("loader", "encoder", "decoder", "reward", "optimizer")
FILES = 128  # different photographs
GIB, TERA = 2**30, 1e12

app = new_app()


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    images: int  # that the loader reads
    batch_size: int
    finetune_from: str
    seconds: float  # of the steps of a case, at least
    matrix: int = 8192  # size of the product that shows the peak
    workers: int | None = None  # one for each core
    stages: Sequence[StageName] = ("features", "frozen", "fine-tuned", "self-critical")


@dataclass(frozen=True)
class Case:
    """The result of one trunk, stage and format, or the reason why there is none."""

    trunk: str
    stage: str
    format: str
    error: str | None = None
    images: float | None = None  # a second, on the device alone
    captions: float | None = None
    memory: int | None = None  # bytes that torch allocated at most
    micro_batches: int | None = None
    flops: float | None = None  # of an image
    peak: float | None = None  # FLOPs a second of a large matrix product in this format
    mfu: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # of each part of a step
    bottleneck: str | None = None


@app.command(epilog="Example: python -m benchmarks.gpu --trunks resnet50 --precision bf16,fp32")
def gpu(
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    images: Annotated[
        int | None,
        typer.Option(
            min=512, help="Images that the loader reads.", show_default="2 batches a process"
        ),
    ] = None,
    trunks: Annotated[str, typer.Option(help="CNNs.")] = "resnet50,resnet101",
    precision: Annotated[
        str, typer.Option(help="bf16, fp16, fp32; fp32 is with and without TF32.")
    ] = "bf16,fp16,fp32",
    seconds: Annotated[float, typer.Option(min=0, help="Seconds of each case, at least.")] = 1.0,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write JSON to this file.")
    ] = None,
) -> None:
    """Print throughput, memory, MFU and the bottleneck of each stage of training."""
    formats = parse_formats(precision)
    from benchmarks.training_steps import AttentionSetup, images_to_read

    coco = load_config(ROOT / "configs/coco.yaml", []).training
    images = images or images_to_read(coco.batch_size, None)
    sizes = Sizes(images, coco.batch_size, str(coco.phases[1].finetune_from), seconds)
    with tempfile.TemporaryDirectory() as folder:
        setup = AttentionSetup(Path(folder), pick_device(device), jpeg_images=FILES)
        report = run(setup, trunks.split(","), formats, sizes)
    typer.echo(to_text(report))
    if output is not None:
        with atomic_file(output) as file:
            file.write(json.dumps(report, indent=2) + "\n")


def parse_formats(precision: str) -> list[Format]:
    """Return the formats that a list of precisions names: fp32 is with TF32 and without.

    Raises:
        UsageError: there is no such precision.
    """
    formats: dict[str, list[Format]] = {
        "bf16": ["bf16"],
        "fp16": ["fp16"],
        "fp32": ["tf32", "fp32"],
    }
    names = precision.split(",")
    if unknown := [name for name in names if name not in formats]:
        raise UsageError(f"{parameter('precision')} '{unknown[0]}': use bf16, fp16 or fp32")
    return [each for name in names for each in formats[name]]


def run(
    setup: AttentionSetup, trunks: Sequence[str], formats: Sequence[Format], sizes: Sizes
) -> dict[str, Any]:
    """Measure everything, and return it as JSON values."""
    from benchmarks.decoding_speed import measure_decoding
    from benchmarks.training_steps import Photographs, Trainee, measured_peak

    facts = describe(setup, sizes)
    say("writing photographs, measuring the loader")
    try:
        photographs = Photographs(
            setup, images=sizes.images, batch_size=sizes.batch_size, workers=sizes.workers
        )
        loader = photographs.measure_loader()
    except Exception as error:  # such as too little shared memory for the processes
        say(f"loader: {reason(error)}; measured without processes")
        images = 4 * sizes.batch_size
        photographs = Photographs(setup, images=images, batch_size=sizes.batch_size, workers=0)
        loader = photographs.measure_loader()
    say(f"loader: {loader:.0f} images/s with {photographs.workers} processes")
    peaks = {each: measured_peak(setup.device, each, size=sizes.matrix) for each in formats}
    cases, checks, cached = [], {}, {}
    for trunk in trunks:
        try:
            own: Any = replace(setup, trunk=trunk)
            trainee = Trainee(own, photographs, finetune_from=sizes.finetune_from)
            cached[trunk] = trainee.measure_cached_loader()
        except Exception as error:
            say(f"{trunk}: {reason(error)}")
            cases.append(Case(trunk, "all", "all", error=reason(error)))
            continue
        rates = {"pixels": loader, "features": cached[trunk]}
        for case in measure_trunk(trainee, peaks, rates, sizes):
            say(case_line(case))
            cases.append(case)
        try:
            checks[trunk] = check_from_files(trainee, photographs, formats[0], cases)
        except Exception as error:
            checks[trunk] = {"error": reason(error)}
        del trainee
        free(setup)
    say("decoding")
    speeds: list[Speed] = []
    try:
        speeds = measure_decoding(setup, say=say)
    except Exception as error:
        say(f"decoding: {reason(error)}")
    return {
        "facts": facts,
        "loader": {"images": loader, "processes": photographs.workers, "cached": cached},
        "peaks": peaks,
        "cases": [asdict(case) for case in cases],
        "from_files": checks,
        "decoding": [speed._asdict() for speed in speeds],
    }


def measure_trunk(
    trainee: Trainee, peaks: Mapping[Format, float], rates: Mapping[str, float], sizes: Sizes
) -> Iterator[Case]:
    """Yield the cases of a trunk. One that fails does not stop the others."""
    flops: dict[StageName, float] = {}  # the same in all formats
    for stage in sizes.stages:
        for name in peaks:
            case = Case(trainee.setup.trunk, stage, name)
            try:
                yield measure_case(case, trainee, stage, name, flops, peaks[name], rates, sizes)
            except Exception as error:
                yield replace(case, error=reason(error))
            free(trainee.setup)


def measure_case(
    case: Case,
    trainee: Trainee,
    stage: StageName,
    name: Format,
    flops: dict[StageName, float],
    peak: float,
    rates: Mapping[str, float],
    sizes: Sizes,
) -> Case:
    """Measure one stage in one format; `flops` keeps what has been counted for other formats."""
    from benchmarks.training_steps import tf32

    with tf32(name == "tf32"):
        training = trainee.stage(stage)
        timing = training.measure(name, seconds=sizes.seconds)
        if stage not in flops:
            flops[stage] = training.flops(name)
        parts = training.parts_of_step(name)
    batch = sizes.batch_size
    reads_files = stage in ("features", "fine-tuned")
    seconds = {"loader": batch / rates["pixels" if reads_files else "features"], **parts}
    images = batch / timing.seconds
    per_image = {"features": 0, "self-critical": getattr(training.objective, "samples", 0)}
    return replace(
        case,
        images=images,
        captions=images * per_image.get(stage, trainee.setup.captions_per_image),
        memory=timing.memory,
        micro_batches=timing.parts,
        flops=flops[stage],
        peak=peak,
        mfu=flops[stage] * images / peak,
        seconds=seconds,
        bottleneck=bottleneck(seconds, works_ahead=reads_files),
    )


def bottleneck(seconds: Mapping[str, float], *, works_ahead: bool) -> str:
    """Return the part of a step that limits its speed: the one that takes longest.

    A loader that works ahead, in other processes, limits it only if it takes longer than the sum
    of all other parts.
    """
    others = {name: value for name, value in seconds.items() if name != "loader"}
    if works_ahead:
        return "loader" if seconds["loader"] > sum(others.values()) else max(others, key=others.get)
    return max(seconds, key=seconds.get)  # type: ignore[arg-type]


def check_from_files(
    trainee: Trainee, photographs: Photographs, name: Format, cases: Sequence[Case]
) -> dict[str, Any]:
    """Fine-tune for an epoch from the files, with the loader beside the device."""
    from benchmarks.training_steps import tf32

    with tf32(name == "tf32"):
        stage = trainee.stage("fine-tuned")
        images = stage.epoch_from_files(photographs.loader, name)
    say(f"{trainee.setup.trunk}: an epoch of fine-tuning from files: {images:.0f} images/s")
    return {"format": name, "images": images}


def describe(setup: AttentionSetup, sizes: Sizes) -> dict[str, Any]:
    """Return the hardware, the versions and the sizes that the results depend on."""
    import torch

    from captioner.data.batching import default_num_workers

    facts: dict[str, Any] = {"cpu": cpu_name(), "cores": default_num_workers()}
    if setup.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(setup.device)
        facts["gpus"] = f"1 of {torch.cuda.device_count()}"
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts | {
        "torch": torch.__version__,
        "tf32_by_default": {
            "convolutions and RNNs": torch.backends.cudnn.allow_tf32,
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
        },
        "batch": sizes.batch_size,
        "captions an image": setup.captions_per_image,
        "pixels": setup.image_size,
        "words": setup.vocab_size,
        "hidden": setup.hidden_size,
        "fine-tuned from": sizes.finetune_from,
        "seed": setup.seed,
    }


def free(setup: AttentionSetup) -> None:
    """Give back the memory of a case."""
    import gc

    import torch

    gc.collect()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()


def reason(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def say(line: str) -> None:
    """Print progress."""
    typer.echo(line, err=True)


def case_line(case: Case) -> str:
    """Return a case in one line, for progress."""
    name = f"{case.trunk} {case.stage} {case.format}"
    if case.error is not None:
        return f"{name}: {case.error}"
    memory = "" if case.memory is None else f"{case.memory / GIB:.1f} GiB, "
    parts = ", ".join(f"{part} {1000 * value:.1f} ms" for part, value in case.seconds.items())
    return (
        f"{name}: {case.images:.0f} images/s, {memory}{case.micro_batches} micro-batches, "
        f"MFU {case.mfu:.1%}; {parts}: {case.bottleneck}"
    )


def to_text(report: Mapping[str, Any]) -> str:
    """Return the report as plain text and Markdown tables."""
    facts = ", ".join(f"{name} {value}" for name, value in report["facts"].items())
    peaks = ", ".join(f"{name} {peak / TERA:.1f}" for name, peak in report["peaks"].items())
    loader = report["loader"]
    cached = ", ".join(f"{trunk} {rate:.0f}" for trunk, rate in loader["cached"].items())
    head = ["trunk", "stage", "format", "images/s", "captions/s", "GiB", "micro-batches"]
    head += ["GFLOP an image", "MFU", *(f"{part} ms" for part in PARTS), "bottleneck"]
    checks = [
        f"An epoch of fine-tuning {trunk} from files ({check['format']}): "
        f"{check['images']:.0f} images/s"
        for trunk, check in report["from_files"].items()
        if "images" in check
    ]
    decoding = [("device", "precision", "beam", "images", "captions/s")]
    decoding += [
        (
            each["device"],
            each["precision"],
            str(each["beam"]),
            str(each["images"]),
            f"{each['captions']:.1f}",
        )
        for each in report["decoding"]
    ]
    return "\n\n".join(
        [
            f"# {facts}",
            f"Loader: {loader['images']:.0f} images/s from files with {loader['processes']} "
            f"processes; {cached} images/s of cached features.",
            f"Measured peak of a matrix product, in TFLOP/s: {peaks}.",
            markdown_table([head, *map(_row, report["cases"])]),
            *checks,
            markdown_table(decoding),
        ]
    )


def _row(case: Mapping[str, Any]) -> list[str]:
    names = [case["trunk"], case["stage"], case["format"]]
    if case["error"] is not None:
        return [*names, *[MISSING] * (5 + len(PARTS) + 1), case["error"]]
    seconds = case["seconds"]
    parts = [f"{1000 * seconds[part]:.1f}" if part in seconds else MISSING for part in PARTS]
    return [
        *names,
        f"{case['images']:.0f}",
        f"{case['captions']:.0f}" if case["captions"] else MISSING,
        MISSING if case["memory"] is None else f"{case['memory'] / GIB:.1f}",
        str(case["micro_batches"]),
        f"{case['flops'] / 1e9:.2f}",
        f"{100 * case['mfu']:.1f} %",
        *parts,
        case["bottleneck"],
    ]


if __name__ == "__main__":
    run_app(app, "benchmarks.gpu")
