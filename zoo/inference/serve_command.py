"""The command ``serve``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from zoo.errors import ConfigError
from zoo.inference.compute_options import add_compute_options
from zoo.inference.listener import bind, server_url
from zoo.network_names import check_network, resolve_network
from zoo.text import brief, printable

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> int:
    """Return a size such as "64MB" or "1000" in bytes.

    Raises:
        ConfigError: it has another form.
    """
    match = re.fullmatch(r"(\d{1,9}) ?([KMG]?B|)", text.upper())
    if match is None or not int(match[1]):
        raise ConfigError(
            f"The size {brief(text)} is invalid; give bytes, or a number with KB, MB or GB, such as 64MB."
        )
    return int(match[1]) * UNITS[match[2]]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        "tempozoo serve",
        description="Classify videos that clients send by HTTP: `curl --data-binary @clip.mp4 -H 'Content-Type: "
        "video/mp4' http://127.0.0.1:8000/predict`. Uploads are in memory: at most max_upload times the number of "
        "queued and decoding requests. The server has no authentication and no TLS; put a proxy in front of it.",
    )
    parser.add_argument("network", metavar="NAME|CKPT", help="network, as of `tempozoo fit --from`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any (default: 8000)")
    add_compute_options(parser)
    parser.add_argument("--max_upload", default="64MB", metavar="SIZE", help="largest video (default: 64MB)")
    parser.add_argument("--queue", type=int, default=32, help="requests that may wait; others get 503 (default: 32)")
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="seconds to receive a video, and to classify it (default: 30)"
    )
    parser.add_argument(
        "--allow_url",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts from which clients may have videos downloaded; '*': every public host (default: none)",
    )
    parser.add_argument("--top", type=int, default=5, help="classes in a response (default: 5)")
    parser.add_argument("--allow_untrained", action="store_true", help="also serve networks with untrained parts")
    return parser


def serve_command(arguments: Sequence[str]) -> None:
    """Serve a network by HTTP until SIGTERM or Ctrl-C."""
    args = build_parser().parse_args(list(arguments))
    check_network(args.network)
    try:
        from zoo.inference import serving
    except ImportError as error:
        raise ConfigError(f'`tempozoo serve` needs {error.name}: pip install "tempozoo[serve]"') from error
    from zoo.inference.command_predictor import open_predictor
    from zoo.loading import load
    from zoo.training_state import is_untrained, untrained_error

    options = serving.ServeOptions(
        name=printable(args.network),
        max_upload=parse_size(args.max_upload),
        queue=args.queue,
        timeout=args.timeout,
        allow_url=tuple(args.allow_url),
        top=args.top,
    )
    with bind(args.host, args.port) as listener:
        network = load(resolve_network(args.network))
        if is_untrained(network) and not args.allow_untrained:
            raise untrained_error(network, printable(args.network))
        with open_predictor(network, args) as predictor:
            server = serving.create_server(serving.create_app(predictor, options), options)
            listener.listen()  # clients may connect when the line below is printed
            print(f"Serving {options.name} at {server_url(listener, args.host)}", flush=True)
            server.run(sockets=[listener])
