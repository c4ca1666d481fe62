"""Sort fetched pictures into training/, validation/ and test/."""

import sys
from pathlib import Path

from catdog import command
from catdog.config import PrepareConfig


def main(config: PrepareConfig) -> int:
    """Prepare the data set that download has fetched, and print its folder."""
    from catdog.download import locate
    from catdog.prepare import prepare

    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    prepared = prepare(
        source.path,
        Path(config.data_dir) / source.name,
        origin=source.origin,
        val_fraction=config.val_fraction,
        seed=config.seed,
        exclude=config.exclude,
        classes=config.classes,
        say=command.say,
    )
    print(prepared.folder)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, PrepareConfig))
