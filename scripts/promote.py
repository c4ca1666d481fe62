"""Compare a version with the one in Production, promote one, go back, or look back."""

import logging
import sys

from catdog import CatdogError, cli
from catdog.config import PromoteConfig

logger = logging.getLogger("catdog")


def main(config: PromoteConfig) -> int:
    """Print what was decided and why; 0 when the version serves, 1 when the champion stays."""
    from catdog.registry import history, versions
    from catdog.registry.promote import history_table, promote
    from catdog.registry.promotion import PRODUCTION
    from catdog.tracking import store

    if config.history == "yes":
        store.connect()
        events = history.history(config.name)
        if not events:
            raise CatdogError(f"the registry knows of no promotion of {config.name!r}.")
        print(history_table(events))
        serving = versions.number_of(versions.champion(config.name)) or "none"
        logger.info(f"In Production now: {serving}")
        return 0
    version, decision = promote(config)
    verb = "would go to" if config.dry_run == "yes" else "is in"
    print(f"{version.name} version {version.version} {verb} {decision.stage}: {decision.summary}.")
    return 0 if decision.stage == PRODUCTION else 1


if __name__ == "__main__":
    sys.exit(cli.run(main, PromoteConfig))
