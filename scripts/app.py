"""Label photos on a web page."""

import sys

from catdog import cli
from catdog.config import AppConfig


def main(config: AppConfig) -> int:
    """Serve the page until Ctrl-C; status 0."""
    from catdog.serving import app, server

    app.require_gradio()
    model = server.load_model(config.model_uri, device=config.device)
    app.serve(model, config.host, config.port, open_browser=config.open == "yes")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, AppConfig))
