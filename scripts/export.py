"""Write a registered model as a folder that needs neither catdog nor PyTorch nor MLflow."""

import logging
import sys
from pathlib import Path

from catdog import cli
from catdog.config import ExportConfig

logger = logging.getLogger("catdog")


def main(config: ExportConfig) -> int:
    """Export, compare the export's answers with the model's, and print the folder."""
    from catdog.inference.classifier import CARD_FILE, Classifier
    from catdog.registry.versions import fetch
    from catdog.serving.export import check, export

    folder = fetch(config.model_uri)
    classifier = Classifier.load(folder, device="cpu")
    exported = export(classifier, Path(config.to), card=folder / CARD_FILE)
    graph, example = check(classifier, exported)
    logger.info(f"The export answers alike to within {graph:.1e} on the same pixels,")
    logger.info(f"and its example, which resizes with Pillow, to within {example:.1e}")
    logger.info(f"Try it:  python {exported / 'example.py'} PHOTO")
    print(exported)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, ExportConfig))
