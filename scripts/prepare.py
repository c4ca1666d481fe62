"""Sort fetched pictures into training/, validation/ and test/."""

import sys
from pathlib import Path

from catdog import cli
from catdog.config import PrepareConfig


def main(config: PrepareConfig) -> int:
    """Prepare the data set that download has fetched, and print its folder."""
    from catdog.data.prepare import prepare
    from catdog.data.sources import locate

    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    prepared = prepare(source, config)
    print(prepared.folder)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, PrepareConfig))
