"""Delete cached features, and runs that were cut, that have not been used for a while."""

import sys
from pathlib import Path

from catdog import cli
from catdog.config import ClearCacheConfig


def main(config: ClearCacheConfig) -> int:
    """Print how much space was freed."""
    from catdog.tracking.resume import clear_runs
    from catdog.training.feature_cache import clear_caches

    data_dir = Path(config.data_dir)
    freed = clear_caches(data_dir, days=config.days) + clear_runs(data_dir, days=config.days)
    print(f"freed {freed / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, ClearCacheConfig))
