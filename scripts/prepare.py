"""Sort fetched pictures into training/, validation/ and test/."""

import sys
from pathlib import Path

from catdog import command
from catdog.config import PrepareConfig


def main(config: PrepareConfig) -> int:
    """Prepare the data set that download has fetched, and print its folder."""
    from catdog.download import locate
    from catdog.prepare import prepare_source

    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    prepared = prepare_source(source, source.path, config, command.say)
    print(prepared.folder)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, PrepareConfig))
