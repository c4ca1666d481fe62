"""Compare a version with the one in Production, promote one, go back, or look back."""

import logging
import sys

from catdog import CatdogError, cli
from catdog.config import PromoteConfig

logger = logging.getLogger("catdog")


def main(config: PromoteConfig) -> int:
    """Print what was decided and why; 0 when the version serves, 1 when the champion stays."""
    from catdog.registry import history
    from catdog.registry.promote import history_table, promote
    from catdog.tracking import store

    if config.history == "yes":
        store.connect()
        events = history.history(config.name)
        if not events:
            raise CatdogError(f"the registry knows of no promotion of {config.name!r}.")
        print(history_table(events))
        if named := history.unfinished(config.name):
            logger.info(
                f"Version {named.version} has the alias of the champion, and does not serve: a "
                "promotion was cut, or moved by hand. promote.py --to VERSION settles it."
            )
        return 0
    outcome = promote(config)
    would = "would go to" if config.dry_run == "yes" else "is in"
    name = f"{outcome.version.name} version {outcome.version.version}"
    print(f"{name} {would} {outcome.decision.stage}: {outcome.decision.told}.")
    return 0 if outcome.serves else 1


if __name__ == "__main__":
    sys.exit(cli.run(main, PromoteConfig))
