"""A copy of the project in which tests run the real `mlflow run`, as a newcomer would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT, tiny_picture


@dataclass(frozen=True)
class Project:
    """A copy of the project, as a fresh clone would be."""

    root: Path

    @property
    def client(self) -> MlflowClient:
        uri = f"sqlite:///{self.root}/mlflow.db"
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    def environment(self, **extra: str) -> dict[str, str]:
        """A newcomer's environment."""
        hidden = ("MLFLOW_", "KAGGLE_", "PYTEST_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "HOME": str(self.root / "home"),
            "PYTHONPATH": str(self.root),
            **extra,
        }

    def start(self, *command: str, status: int = 0, cwd: Path | None = None, **extra: str):
        """Run a command in a newcomer's environment and check its exit status."""
        ended = subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended

    def mlflow_run(self, *parameters: str, entry_point: str = "main", status: int = 0):
        pairs = [word for parameter in parameters for word in ("-P", parameter)]
        return self.start(
            *("mlflow", "run", ".", "--env-manager=local", "-e", entry_point, *pairs), status=status
        )

    def script(self, name: str, *arguments: str, **options):
        return self.start(sys.executable, f"scripts/{name}.py", *arguments, **options)

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return self.client.search_runs(["0"])


def copied(target: Path) -> Project:
    """The project in a folder of its own."""
    for name in ("catdog", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, target / name)
    (target / "home").mkdir()
    return Project(target)


def draw(folder: Path, count: int, *, labelled: bool = True) -> Path:
    """A folder with `count` tiny pictures of each class, which their names tell if `labelled`."""
    folder.mkdir(parents=True)
    for number in range(count):
        for name in ("cat", "dog"):
            path = folder / (f"{name}.{number}.jpg" if labelled else f"{number}{name}.jpg")
            tiny_picture(name, number if labelled else number + 1000, (240, 200)).save(path)
    return folder
