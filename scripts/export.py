"""Write a registered model as a folder that needs neither catdog nor PyTorch nor MLflow."""

import sys
from pathlib import Path

from catdog import command
from catdog.config import ExportConfig


def main(config: ExportConfig) -> int:
    """Export, compare the export's answers with the model's, and print the folder."""
    from catdog.classifier import Classifier
    from catdog.export import card_of, check, export
    from catdog.registry import fetch

    folder = fetch(config.model_uri)
    classifier = Classifier.load(folder, device="cpu", say=command.say)
    exported = export(classifier, Path(config.to), card=card_of(folder))
    proof = check(classifier, exported)
    graph, example = proof.differences["onnx"], proof.differences["example"]
    command.say(f"The export answers alike to within {graph:.1e} on the same pixels,")
    command.say(f"and its example, which resizes with Pillow, to within {example:.1e}")
    command.say(f"Try it:  python {exported / 'example.py'} PHOTO")
    print(exported)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, ExportConfig))
