"""The verbs of ``tempozoo`` that need the zoo alone: what there is, where its weights are, and where they go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from zoo.cache import clear_cache, list_cache, verify_entry
from zoo.conversion import convert
from zoo.errors import CheckpointError, SkippedError, ZooError
from zoo.hub.checkpoint import SUFFIX
from zoo.hub.digests import read_digests
from zoo.hub.download import each_host_once
from zoo.hub.settings import cache_folder
from zoo.index import BUNDLED, Entry, load_index
from zoo.loading import info, list_models, load, save
from zoo.published import find_weights, obtain


def _where(name: str) -> str:
    folder = find_weights(info(name))
    if folder is None:
        return "not here yet"
    return "bundled" if folder.parent == BUNDLED else f"cached, {folder}"


def _entry(name: str) -> Entry:
    """What ``info`` gives; of an unknown name, the error is for those who type commands."""
    index = load_index()
    if name not in index.entries:
        raise index.unknown(name, "`tempozoo list`")
    return index[name]


def _no_match(pattern: str) -> ZooError:
    return ZooError(f"No network matches {pattern!r}. `tempozoo list` shows all of them.")


def _matching(patterns: Iterable[str]) -> list[str]:
    """Names of the index that match one of some shell patterns."""
    names: dict[str, None] = {}
    for pattern in patterns:
        found = list_models(pattern)
        if not found and any(sign in pattern for sign in "*?["):
            raise _no_match(pattern)
        names.update(dict.fromkeys(found or [_entry(pattern).name]))
    return list(names)


def _each(names: Sequence[str], what: str, act: Callable[[str], str]) -> None:
    """Do something for each name and print what came of it; go on after a failure, and end in an error then."""
    failed, skipped = 0, []
    with each_host_once():
        for name in names:
            try:
                print(f"{name}: {act(name)}", flush=True)
            except SkippedError:
                skipped.append(name)
            except ZooError as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
    if skipped:
        print(f"Not tried, as their hosts cannot be reached: {', '.join(skipped)}")
    if failed:
        raise ZooError(f"{failed + len(skipped)} of {len(names)} could not be {what}; see above.")


def list_verb(arguments: Sequence[str]) -> None:
    """A table of the index."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser("tempozoo list", description="List the networks of the zoo.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'tada2d*'")
    parser.add_argument("--dataset", help="kinetics400, ssv1, ssv2, ...")
    parser.add_argument("--arch", help="architecture or shell pattern")
    asked = parser.parse_args(arguments)
    names = list_models(asked.pattern, dataset=asked.dataset, arch=asked.arch)
    if not names:
        raise _no_match(asked.pattern)
    table = Table(caption="top-1 / top-5 as published, with these views (clips x crops)", caption_justify="left")
    for column in ("name", "data", "frames", "top-1 / top-5", "views", "M params", "GMACs", "weights"):
        table.add_column(column, justify="left" if column in ("name", "data", "weights") else "right", no_wrap=True)
    for name in names:
        e = info(name)
        accuracy = " / ".join("-" if value is None else str(value) for value in (e.reported.top1, e.reported.top5))
        accuracy = "start only" if e.init else accuracy
        views, size = e.reported.views or "", f"{e.params / 1e6:.2f}"
        row = (name, e.dataset, str(e.protocol.num_frames), accuracy, views, size, f"{e.gmacs.value:.2f}", _where(name))
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def info_verb(arguments: Sequence[str]) -> None:
    """Everything the index says of one network."""
    parser = argparse.ArgumentParser("tempozoo info", description="Show everything the index says of a network.")
    parser.add_argument("name")
    e = _entry(parser.parse_args(arguments).name)
    labels = e.class_names()
    seen = read_digests().get(e.name)
    noted = f"not published; first seen here {seen.get('date')}: {seen['sha256']}" if seen else "not published"
    reported = f"top-1 {e.reported.top1}, " + (f"top-5 {e.reported.top5}, " if e.reported.top5 is not None else "")
    reported += f"{e.reported.views} views at {e.reported.size}"
    stated = f"{e.stated.params_m} M parameters, {e.stated.gmacs} GMACs at {e.stated.input}" if e.stated else "nothing"
    lines = {
        "name": e.name,
        "architecture": f"{e.arch} {json.dumps(dict(e.options))}",
        "trained on": e.dataset + (" (a start for fine-tuning)" if e.init else ""),
        "labels": f"{len(labels)}: {', '.join(labels[:3])}, ..." if labels else "not published",
        "reported": "nothing" if e.reported.top1 is None else f"{reported} ({e.reported.source})",
        "protocol": str(e.protocol),
        "mean, std": f"{list(e.protocol.mean)}, {list(e.protocol.std)}",
        "parameters": f"{e.params:,}",
        "GMACs": f"{e.gmacs.value} at {e.gmacs.input}",
        "stated size": stated.replace("None M parameters, ", "").replace(", None GMACs", ""),
        "paper": f"{e.paper.title} ({e.paper.venue}), {e.paper.url}",
        "licence": f"weights: {e.licence.weights}; code: {e.licence.code}",
        "sources": "; ".join(s.url + (f" -> {s.file}" if s.file else "") for s in e.sources),
        "sha256": e.sha256 or (f"begins with {e.sha256_prefix}" if e.sha256_prefix else noted),
        "weights": _where(e.name),
        "notes": e.notes or "none",
    }
    for key, value in lines.items():
        print(f"{key + ':':14}{value.strip()}")


def convert_verb(arguments: Sequence[str]) -> None:
    """A published file -> safetensors and config.json."""
    parser = argparse.ArgumentParser("tempozoo convert", description="Convert a published checkpoint to safetensors.")
    parser.add_argument("file", help="the publisher's file")
    parser.add_argument("name", help="the index name it belongs to")
    parser.add_argument("--out", help="folder to write (default: the cache, where load() finds it)")
    asked = parser.parse_args(arguments)
    print(f"Wrote {convert(asked.file, _entry(asked.name).name, asked.out)}")


def export_verb(arguments: Sequence[str]) -> None:
    """A Lightning checkpoint -> a folder for zoo.load."""
    parser = argparse.ArgumentParser("tempozoo export-checkpoint", description="Turn a .ckpt into a folder for load().")
    parser.add_argument("checkpoint", help="a .ckpt written by tempozoo fit")
    parser.add_argument("folder", help="folder to write")
    asked = parser.parse_args(arguments)
    if not asked.checkpoint.endswith(SUFFIX):
        raise CheckpointError(f"{asked.checkpoint} is not a {SUFFIX} file.")
    print(f"Wrote {save(load(asked.checkpoint), asked.folder)}")


def download_verb(arguments: Sequence[str]) -> None:
    """Fetch and convert now what load() would fetch later."""
    parser = argparse.ArgumentParser(
        "tempozoo download", description="Fetch, check and convert published weights, for machines without a network."
    )
    parser.add_argument("pattern", nargs="+", help="index names or shell patterns")
    parser.add_argument("--keep", action="store_true", help="keep the publisher's file as well")
    asked = parser.parse_args(arguments)
    _each(_matching(asked.pattern), "fetched", lambda name: str(obtain(info(name), keep=asked.keep).file.parent))


def verify_verb(arguments: Sequence[str]) -> None:
    """Check what is in the cache."""
    parser = argparse.ArgumentParser(
        "tempozoo verify", description="Check every byte of cached weights against the digests of their files."
    )
    parser.add_argument("pattern", nargs="*", default=["*"], help="index names or shell patterns (default: all)")
    names = [name for name in _matching(parser.parse_args(arguments).pattern) if find_weights(info(name))]
    if not names:
        raise ZooError(f"Nothing of that is in {cache_folder()}.")
    _each(names, "verified", lambda name: verify_entry(info(name)))


def cache_verb(arguments: Sequence[str]) -> None:
    """List or clear the cache."""
    parser = argparse.ArgumentParser("tempozoo cache", description="What is in the cache, and how to make room.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="conversions, publishers' files, half downloads")
    clear = verbs.add_parser("clear", help="remove conversions; digests of first downloads stay")
    clear.add_argument("pattern", help="index name or shell pattern; '*' for all")
    clear.add_argument("--files", action="store_true", help="publishers' files and half downloads as well")
    asked = parser.parse_args(arguments)
    if asked.verb == "clear":
        gone = list(clear_cache(asked.pattern, files=asked.files))
        for item in gone:
            print(f"removed {item.place} ({item.size / 1e6:.1f} MB)")
        if not gone:
            raise ZooError(f"Nothing in {cache_folder()} matches {asked.pattern!r}.")
        return
    items = list_cache()
    for item in items:
        print(f"{item.size / 1e6:10.1f} MB  {item.kind:16}  {item.place}")
    print(f"{sum(item.size for item in items) / 1e6:10.1f} MB  in {cache_folder()}")


def mirror_verb(arguments: Sequence[str]) -> None:
    """Converted weights for a lab: into a folder, or to the Hub."""
    from zoo.hub.hf import HUB_PREFIX
    from zoo.mirror import mirror_to_folder, mirror_to_hub

    parser = argparse.ArgumentParser(
        "tempozoo mirror",
        description="Fetch and convert published weights once for many. Whoever sets TEMPOZOO_MIRROR to the folder, "
        "the address it is served at, or the hf-hub: name then loads from there. Mind the licences of the weights.",
    )
    parser.add_argument("pattern", nargs="+", help="index names or shell patterns")
    parser.add_argument("--to", required=True, help="folder, hf-hub:organisation (a repository each), hf-hub:user/repo")
    parser.add_argument("--public", action="store_true", help="make new repositories on the Hub public")
    asked = parser.parse_args(arguments)
    names = [name for name in _matching(asked.pattern) if info(name).sources[0].kind != "bundled"]
    if not names:
        raise ZooError(f"{' '.join(asked.pattern)} comes with the package; there is nothing to mirror.")

    def act(name: str) -> str:
        if asked.to.startswith(HUB_PREFIX):
            return mirror_to_hub(info(name), asked.to, private=not asked.public)
        return str(mirror_to_folder(info(name), Path(asked.to)))

    _each(names, "mirrored", act)


def push_verb(arguments: Sequence[str]) -> None:
    """A network to the Hub."""
    from zoo.push import push

    parser = argparse.ArgumentParser(
        "tempozoo push", description="Put a network on the Hugging Face Hub, with a model card made from what is known."
    )
    parser.add_argument("model", help=".ckpt, folder or .safetensors file")
    parser.add_argument("repo", help="user/repo; made if it is not there")
    parser.add_argument("--results", help="folder that `tempozoo test` wrote, with these weights")
    parser.add_argument("--dataset", help="what these results are of, such as 'UCF101, ten classes'")
    parser.add_argument("--licence", help="of the weights, in the Hub's words, such as apache-2.0 or cc-by-nc-4.0")
    parser.add_argument("--card", help="a README.md of your own instead of the generated one")
    parser.add_argument("--revision", help="branch (default: main)")
    parser.add_argument("--pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="of a new repository")
    asked = vars(parser.parse_args(arguments))
    print(f"Pushed: {push(asked.pop('model'), asked.pop('repo'), create_pr=asked.pop('pr'), **asked)}")
