"""Compare a version with the one in Production, promote one, go back, or look back."""

import logging
import sys

from catdog import cli
from catdog.config import PromoteConfig

logger = logging.getLogger("catdog")


def main(config: PromoteConfig) -> int:
    """Print what was decided and why; 0 when the version serves, 1 when the champion stays."""
    from catdog.registry.promote import look_back, promote
    from catdog.registry.promotion import PRODUCTION

    if config.history == "yes":
        table, serving = look_back(config.name)
        print(table)
        logger.info(f"In Production now: {serving}")
        return 0
    version, decision = promote(config)
    verb = "would go to" if config.dry_run == "yes" else "is in"
    print(f"{version.name} version {version.version} {verb} {decision.stage}: {decision.summary}.")
    return 0 if decision.stage == PRODUCTION else 1


if __name__ == "__main__":
    sys.exit(cli.run(main, PromoteConfig))
