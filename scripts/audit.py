"""Look for wrong labels, near-duplicates and odd pictures in a prepared data set."""

import logging
import sys
from pathlib import Path

from catdog import cli
from catdog.config import AuditConfig

logger = logging.getLogger("catdog")


def main(config: AuditConfig) -> int:
    """Write the list of issues, and print how many there are and the first of each kind."""
    from catdog.data.dataset import load_dataset
    from catdog.data.sources import locate
    from catdog.evaluation.audit import AUDIT, summary_lines, write_issues
    from catdog.models.device import pick_device
    from catdog.models.network import build_network
    from catdog.reporting.findings import audit

    device, _ = pick_device(config.device)
    data_dir = Path(config.data_dir)
    source = locate(config.dataset, data_dir, seed=config.seed)
    dataset = load_dataset(data_dir / source.name, classes=config.classes)
    output = dataset.folder / AUDIT if config.output == "auto" else Path(config.output)
    network = build_network(config.backbone, weights=config.weights).to(device)
    issues = audit(dataset, network, data_dir, seed=config.seed)
    write_issues(output, issues)
    for line in summary_lines(issues):
        print(line)
    logger.info(
        f"Wrote {output}. Write the paths that shall go into exclude.txt, one in a line, "
        "and train with -P exclude=exclude.txt."
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, AuditConfig))
