"""Commands of ``tempozoo`` that need only ``zoo``: list networks; download, convert, verify and share weights.

Commands that need torch import it after their arguments are parsed, so that ``--help`` and errors are fast.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import zoo
from zoo.charts.points import check_chart_path
from zoo.command_line import expand_home
from zoo.errors import CheckpointError, ConfigError, DownloadError, ZooError
from zoo.index import BUNDLED, Entry, info, list_models, load_index
from zoo.network_names import check_network, resolve_network
from zoo.settings import cache_folder
from zoo.text import printable
from zoo.weights.cache import clear_cache, list_cache
from zoo.weights.digests import read_digests
from zoo.weights.download import skip_unreachable_hosts
from zoo.weights.locations import CHECKPOINT_SUFFIX, HUB_PREFIX, find_weights


def _location(name: str) -> str:
    """Return the location of an entry's weights on this machine."""
    folder = find_weights(info(name))
    if folder is None:
        return "not downloaded"
    return "bundled" if folder.parent == BUNDLED else f"cached, {folder}"


def _entry(name: str) -> Entry:
    """Return an index entry; the error for an unknown name refers to a command instead of a function."""
    index = load_index()
    if name not in index.entries:
        raise index.unknown(name, "`tempozoo list`")
    return index[name]


def _no_match(pattern: str, filters: Mapping[str, str] = MappingProxyType({})) -> ZooError:
    conditions = "".join(f" with {option} {value}" for option, value in filters.items())
    return ZooError(f"No network matches {pattern!r}{conditions}. `tempozoo list` shows all networks.")


def _matching(patterns: Iterable[str]) -> list[str]:
    """Return the index names that match any of the shell patterns."""
    names: dict[str, None] = {}
    for pattern in patterns:
        matches = list_models(pattern)
        if not matches and any(char in pattern for char in "*?["):
            raise _no_match(pattern)
        names.update(dict.fromkeys(matches or [_entry(pattern).name]))
    return list(names)


def _for_each(names: Sequence[str], verb: str, act: Callable[[str], str]) -> None:
    """Call ``act`` with each name and print its result. A failure does not stop the others.

    Args:
        names: names of index entries.
        verb: past participle for the error, such as "downloaded".
        act: returns the line to print; raises a ZooError for a failure.

    Raises:
        ZooError: at least one name failed. Raised after the last name.
    """
    failed, skipped = 0, []
    with skip_unreachable_hosts():
        for name in names:
            try:
                print(f"{name}: {act(name)}", flush=True)
            except ZooError as error:
                if isinstance(error, DownloadError) and error.reason == "skipped":
                    skipped.append(name)
                    continue
                failed += 1
                print(f"{name}: FAILED: {printable(str(error))}", flush=True)
    if skipped:
        print(f"Skipped because their hosts cannot be reached: {', '.join(skipped)}")
    if failed:
        raise ZooError(f"{failed + len(skipped)} of {len(names)} networks could not be {verb}; see above.")


def list_command(arguments: Sequence[str]) -> None:
    """Print a table of the index, or write a chart of it."""
    parser = argparse.ArgumentParser("tempozoo list", description="List the networks of the zoo.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'tada2d*'")
    parser.add_argument("--dataset", help="kinetics400, ssv1, ssv2, ...")
    parser.add_argument("--arch", help="architecture or shell pattern")
    parser.add_argument(
        "--plot", metavar="FILE", help="write a chart of the published accuracies instead: .png, or .html with filters"
    )
    args = parser.parse_args(arguments)
    names = list_models(args.pattern, dataset=args.dataset, arch=args.arch)
    if not names:
        filters = {"--dataset": args.dataset, "--arch": args.arch}
        raise _no_match(args.pattern, {option: value for option, value in filters.items() if value is not None})
    if args.plot is None:
        _print_table(names)
        return
    path = Path(expand_home(args.plot))
    check_chart_path(path)
    from zoo.charts.files import write_chart  # imports matplotlib

    count = write_chart(names, path)
    print(f"Wrote {printable(str(path))}: {count} of {len(names)} networks have a published accuracy.")


def _print_table(names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        caption="top-1 / top-5: published accuracy in percent with these views (clips x crops)", caption_justify="left"
    )
    for column in ("name", "data", "frames", "top-1 / top-5", "views", "M params", "GMACs", "weights"):
        table.add_column(column, justify="left" if column in ("name", "data", "weights") else "right", no_wrap=True)
    for name in names:
        e = info(name)
        accuracy = " / ".join("-" if value is None else str(value) for value in (e.reported.top1, e.reported.top5))
        accuracy = "untrained start" if e.init else accuracy
        views, size = e.reported.views or "", f"{e.params / 1e6:.2f}"
        row = (
            name,
            e.dataset,
            str(e.protocol.num_frames),
            accuracy,
            views,
            size,
            f"{e.gmacs.value:.2f}",
            _location(name),
        )
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def info_command(arguments: Sequence[str]) -> None:
    """Print the index entry of a network."""
    parser = argparse.ArgumentParser("tempozoo info", description="Describe a network of the index.")
    parser.add_argument("name", help="name of an index entry, see `tempozoo list`")
    e = _entry(parser.parse_args(arguments).name)
    labels = e.class_names()
    record = read_digests().get(e.name)
    recorded = "not published"
    if record:
        recorded += f"; recorded on this machine on {record.get('date')}: {record['sha256']}"
    reported = f"top-1 {e.reported.top1}, " + (f"top-5 {e.reported.top5}, " if e.reported.top5 is not None else "")
    reported += f"{e.reported.views} views at {e.reported.size}"
    size = "not published"
    if e.stated:
        size = f"{e.stated.params_m} M parameters, {e.stated.gmacs} GMACs at {e.stated.input}"
        size = size.replace("None M parameters, ", "").replace(", None GMACs", "")
    lines = {
        "name": e.name,
        "architecture": f"{e.arch} {json.dumps(dict(e.options))}",
        "trained on": e.dataset + (" (operator untrained: a start for fine-tuning)" if e.init else ""),
        "labels": f"{len(labels)}: {', '.join(labels[:3])}, ..." if labels else "not published",
        "accuracy": "not published" if e.reported.top1 is None else f"{reported} ({e.reported.source})",
        "protocol": str(e.protocol),
        "mean, std": f"{list(e.protocol.mean)}, {list(e.protocol.std)}",
        "parameters": f"{e.params:,}",
        "GMACs": f"{e.gmacs.value} at {e.gmacs.input}",
        "published size": size,
        "paper": f"{e.paper.title} ({e.paper.venue}), {e.paper.url}",
        "license": f"weights: {e.license.weights}; code: {e.license.code}",
        "sources": "; ".join(s.url + (f" -> {s.file}" if s.file else "") for s in e.sources),
        "sha256": e.sha256 or (f"starts with {e.sha256_prefix}" if e.sha256_prefix else recorded),
        "weights": _location(e.name),
        "notes": e.notes or "none",
    }
    for key, value in lines.items():
        print(f"{key + ':':16}{printable(' '.join(value.split()))}")


def convert_command(arguments: Sequence[str]) -> None:
    """Convert a published file to safetensors and config.json."""
    parser = argparse.ArgumentParser("tempozoo convert", description="Convert a published checkpoint to safetensors.")
    parser.add_argument("file", help="the published file")
    parser.add_argument("name", help="its index name, see `tempozoo list`; bmn for a Boundary-Matching Network")
    parser.add_argument("--out", help="folder to write to (default: the cache, where zoo.load finds it)")
    args = parser.parse_args(arguments)
    out = None if args.out is None else expand_home(args.out)
    if args.name == "bmn":
        from zoo import localization

        if out is None:
            raise ConfigError("Localizers have no cache; give the folder to write to with --out FOLDER.")
        print(f"Wrote {printable(str(localization.save(localization.convert(expand_home(args.file)), out)))}")
        return
    name = _entry(args.name).name
    print(f"Wrote {printable(str(zoo.convert(expand_home(args.file), name, out)))}")


def export_command(arguments: Sequence[str]) -> None:
    """Export a Lightning checkpoint as a folder for zoo.load."""
    parser = argparse.ArgumentParser(
        "tempozoo export-checkpoint", description="Export the weights of a run as a folder for zoo.load."
    )
    parser.add_argument("checkpoint", help="a .ckpt file written by tempozoo fit, or a run's folder (its best .ckpt)")
    parser.add_argument("folder", help="folder to write to")
    args = parser.parse_args(arguments)
    checkpoint = resolve_network(args.checkpoint)
    if not checkpoint.endswith(CHECKPOINT_SUFFIX):
        raise CheckpointError(f"{checkpoint} is neither a {CHECKPOINT_SUFFIX} file nor the folder of a run.")
    print(f"Wrote {printable(str(zoo.save(zoo.load(checkpoint), expand_home(args.folder))))}")


def download_command(arguments: Sequence[str]) -> None:
    """Download and convert weights ahead of zoo.load."""
    parser = argparse.ArgumentParser(
        "tempozoo download",
        description="Download, verify and convert published weights, for later use without internet.",
    )
    parser.add_argument("pattern", nargs="+", help="index names or shell patterns")
    parser.add_argument("--keep", action="store_true", help="also keep the published file")
    args = parser.parse_args(arguments)
    names = _matching(args.pattern)
    from zoo.weights.store import get_weights  # imports torch

    def act(name: str) -> str:
        return str(get_weights(info(name), keep=args.keep).file.parent)

    _for_each(names, "downloaded", act)


def verify_command(arguments: Sequence[str]) -> None:
    """Verify the cache."""
    parser = argparse.ArgumentParser(
        "tempozoo verify", description="Verify cached weights against the SHA-256 of their files."
    )
    parser.add_argument("pattern", nargs="*", default=["*"], help="index names or shell patterns (default: all)")
    names = [name for name in _matching(parser.parse_args(arguments).pattern) if find_weights(info(name))]
    if not names:
        raise ZooError(f"{cache_folder()} contains no weights of these networks.")
    from zoo.weights.verification import verify_entry  # imports torch

    _for_each(names, "verified", lambda name: verify_entry(info(name)))


def cache_command(arguments: Sequence[str]) -> None:
    """List or clear the cache."""
    parser = argparse.ArgumentParser("tempozoo cache", description="List or clear the cache.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="list converted weights, published files and partial downloads")
    clear = verbs.add_parser("clear", help="remove converted weights (recorded digests are kept)")
    clear.add_argument("pattern", help="index name or shell pattern; '*' for all")
    clear.add_argument("--files", action="store_true", help="also remove published files and partial downloads")
    args = parser.parse_args(arguments)
    if args.verb == "clear":
        removed = list(clear_cache(args.pattern, files=args.files))
        for item in removed:
            print(f"removed {printable(str(item.path))} ({item.size / 1e6:.1f} MB)")
        if not removed:
            raise ZooError(f"Nothing in {cache_folder()} matches {args.pattern!r}.")
        return
    items = list_cache()
    for item in items:
        print(f"{item.size / 1e6:10.1f} MB  {item.kind:16}  {printable(str(item.path))}")
    print(f"{sum(item.size for item in items) / 1e6:10.1f} MB  in {cache_folder()}")


def mirror_command(arguments: Sequence[str]) -> None:
    """Copy converted weights to a shared folder or to the Hub."""
    parser = argparse.ArgumentParser(
        "tempozoo mirror",
        description="Download and convert published weights once for many users. Set TEMPOZOO_MIRROR to the folder, "
        "to its web address or to the hf-hub: name to load from there. Check the licenses of the weights first.",
    )
    parser.add_argument("pattern", nargs="+", help="index names or shell patterns")
    parser.add_argument(
        "--to", required=True, help="folder, hf-hub:organization (one repository per network), or hf-hub:user/repo"
    )
    parser.add_argument(
        "--public", action="store_true", help="create public repositories on the Hub (default: private)"
    )
    args = parser.parse_args(arguments)
    names = [name for name in _matching(args.pattern) if not info(name).is_bundled]
    if not names:
        raise ZooError(f"{' '.join(args.pattern)} is part of the package; there is nothing to mirror.")
    from zoo.weights.fill_mirror import mirror_to_folder, mirror_to_hub  # imports torch

    def act(name: str) -> str:
        if args.to.startswith(HUB_PREFIX):
            return mirror_to_hub(info(name), args.to, private=not args.public)
        return str(mirror_to_folder(info(name), Path(expand_home(args.to))))

    _for_each(names, "mirrored", act)


def push_command(arguments: Sequence[str]) -> None:
    """Upload a network to the Hub."""
    parser = argparse.ArgumentParser(
        "tempozoo push", description="Upload a network to the Hugging Face Hub, with a generated model card."
    )
    parser.add_argument(
        "model", help=".ckpt file, run's folder (its best .ckpt), exported folder, or .safetensors file"
    )
    parser.add_argument("repo", help="user/repo; created if it does not exist")
    parser.add_argument("--results", help="folder of a `tempozoo test` of these weights")
    parser.add_argument("--dataset", help="name of the tested data set, such as 'UCF101, ten classes'")
    license_help = "license of the weights: an identifier of the Hub, such as apache-2.0 or cc-by-nc-4.0"
    parser.add_argument("--license", "--licence", dest="license", metavar="ID", help=license_help)
    parser.add_argument("--card", help="a README.md file to use instead of the generated card")
    parser.add_argument("--revision", help="branch (default: main)")
    parser.add_argument("--pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--message", help="commit message")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="visibility of a new repository")
    parser.add_argument(
        "--space", nargs="?", const="", metavar="NAME",
        help="also publish the page of `tempozoo app` as a Space (default: the name of the repository)",
    )  # fmt: skip
    options = vars(parser.parse_args(arguments))
    check_network(options["model"])
    model, repo = resolve_network(options.pop("model")), options.pop("repo")
    if options["space"] is not None:
        from zoo.hub.space import space_name, space_url

        options["space"] = space_name(options["space"], repo)
    print(f"Pushed: {zoo.push(model, repo, create_pr=options.pop('pr'), **options)}")
    if options["space"] is not None:
        print(f"Space: {space_url(options['space'])}")
