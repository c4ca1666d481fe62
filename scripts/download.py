"""Fetch the pictures: Kaggle's archive with a token, or the drawn sample without."""

import sys
from pathlib import Path

from catdog import cli
from catdog.config import DownloadConfig


def main(config: DownloadConfig) -> int:
    """Make the data set's archive or folder exist, and print where it is."""
    from catdog.data.sources import fetch, locate

    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    print(fetch(source, seed=config.seed))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, DownloadConfig))
