"""Answer over HTTP with a registered model, as `mlflow models serve` does."""

import sys

from catdog import cli
from catdog.config import ServeConfig


def main(config: ServeConfig) -> int:
    """Serve until Ctrl-C; status 0."""
    from catdog.serving import server

    model = server.load_model(config.model_uri, device=config.device)
    server.serve(
        model,
        config.host,
        config.port,
        max_body_bytes=config.max_body_mb * 2**20,
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, ServeConfig))
