"""The command ``app``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from zoo.errors import ConfigError
from zoo.inference.compute_options import add_compute_options
from zoo.inference.serve_command import parse_size
from zoo.network_names import check_network


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        "tempozoo app",
        description="Open a web page that classifies a video: labels, labels over time, and an explanation. "
        "The page has no authentication and no TLS; put a proxy in front of it before other machines use it.",
    )
    parser.add_argument(
        "--from",
        dest="networks",
        nargs="+",
        default=[],
        metavar="NAME|CKPT",
        help="networks to choose from, as of `tempozoo fit --from` (default: the trained networks of `tempozoo list`, "
        "downloaded when they are first used)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0: any (default: 7860)")
    parser.add_argument("--no_browser", action="store_true", help="do not open the page in a browser")
    add_compute_options(parser)
    parser.add_argument("--max_upload", default="64MB", metavar="SIZE", help="largest video (default: 64MB)")
    return parser


def app_command(arguments: Sequence[str]) -> None:
    """Serve the web page until SIGTERM or Ctrl-C."""
    args = build_parser().parse_args(list(arguments))
    max_upload = parse_size(args.max_upload)
    for name in args.networks:
        check_network(name)
    try:
        from zoo.inference.app import run_app
    except ImportError as error:
        raise ConfigError(f'`tempozoo app` needs {error.name}: pip install "tempozoo[app]"') from error

    run_app(
        args.networks,
        host=args.host,
        port=args.port,
        browser=not args.no_browser,
        max_upload=max_upload,
        views=args.views,
        device=args.device,
        precision=args.precision,
        batch_size=args.batch_size,
    )
