"""What `tests/test_habits.py` starts: a training with the habits of Windows and macOS.

Worker processes are not forked, what only POSIX has is missing, and what Windows would refuse is
noted: to rename or delete a file that is open or memory-mapped, to sync one that is open to read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ONLY_POSIX = {
    os: ("fork", "geteuid", "killpg", "posix_fallocate", "sched_getaffinity", "statvfs"),
    signal: ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGALRM", "sigwait"),
}


def train(data_dir: str) -> dict[str, object]:
    """Train a network on pictures and fine-tune it; how it went, and how its workers began."""
    from catdog import trained
    from catdog.config import TrainConfig
    from catdog.data.prepare import load_prepared
    from catdog.tracking import run
    from catdog.training import stages
    from catdog.training.checkpoint import Checkpoints

    config = TrainConfig(
        data_dir=data_dir,
        batch_size=8,
        epochs=2,
        views=0,
        unfreeze="all",
        finetune_epochs=1,
        backbone="test_resnet",
        weights="none",
        device="cpu",
    )
    stages.pick_workers = lambda _device: 1  # as if there were a GPU
    begun: set[str] = set()

    def say(_line: str) -> None:
        begun.update(child._popen.method for child in multiprocessing.active_children())

    checkpoints = Checkpoints(Path(data_dir), say)
    with run.start_run("x", Path(data_dir)):
        result = trained.train(
            config, load_prepared(Path(data_dir) / "pets"), say, checkpoints=checkpoints
        )
    losses = [(epoch.train.loss, epoch.val.loss) for epoch in result.fit.epochs]
    features = result.evidence.validation.astype(float)
    return {"losses": losses, "features": features.tolist(), "begun": sorted(begun)}


def _watch() -> list[str]:
    """From now on, what Windows would refuse."""
    refused: list[str] = []

    def look(event: str, given: tuple) -> None:
        if event in ("os.rename", "os.remove"):
            for path in _paths(given):
                if path in set(_held()):
                    refused.append(f"{event} {path}\n{''.join(traceback.format_stack(limit=12))}")

    sync = os.fsync

    def strict(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == os.O_RDONLY and not path.is_dir():  # folders are synced elsewhere alone
            refused.append(f"fsync {path.readlink()}")
        sync(descriptor)

    os.fsync = strict
    sys.addaudithook(look)
    return refused


def _paths(given: tuple) -> Iterator[Path]:
    """What `os.rename` (from, to, folders) or `os.remove` (path, folder) is about."""
    names, folders = (given[:2], given[2:]) if len(given) == 4 else (given[:1], given[1:])
    for name, folder in zip(names, folders, strict=True):
        within = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path.cwd()
        yield within / os.fsdecode(name)


def _held() -> Iterator[Path]:
    """The files that this process has open or memory-mapped."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            yield descriptor.readlink()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        yield Path(line.split(maxsplit=5)[-1])


def main(method: str, folder: Path) -> None:
    import mlflow  # noqa: F401  these know where they run
    import timm  # noqa: F401

    multiprocessing.set_start_method(method)
    for module, names in ONLY_POSIX.items():
        for name in names:
            delattr(module, name)
    os.process_cpu_count = os.cpu_count  # Python 3.13's own needs `sched_getaffinity` here alone
    refused = _watch()
    told = train(str(folder / "data")) | {"refused": refused}
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
