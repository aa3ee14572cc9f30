"""Write the tables of networks in docs/models.md and README.md from checkpoints_index.yaml.

    python docs/generate_models.py

Both files have a block "<!-- begin NAME -->" ... "<!-- end -->" for each function in BLOCKS; the text around is written
by hand. ``tests/docs/test_pages.py`` fails if a block differs from the index.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zoo.charts.points import BUILDER, family_of  # noqa: E402
from zoo.index import Entry, info, list_models  # noqa: E402

PAGES = ("README.md", "docs/models.md")
BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HOSTS = {"gdrive_file": "Google Drive", "gdrive_folder": "Google Drive", "hf": "Hub", "bundled": "bundled"}
# first word of `reported.source` -> repository and folder of the file in it
REPOSITORIES = {
    "TAdaConv": ("alibaba-mmai-research/TAdaConv", ""),
    "TAM": ("liu-zhy/temporal-adaptive-module", ""),
    "mmaction2": ("open-mmlab/mmaction2", "configs/recognition/"),
    "pytorchvideo": ("facebookresearch/pytorchvideo", ""),
}
DATASETS = {"kinetics400": "K400", "ssv2": "SSV2", "ssv1": "SSV1"}  # columns of the short table


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy(entry: Entry) -> str:
    """Return the published accuracies, such as "76.7 / 92.6"."""
    values = (entry.reported.top1, entry.reported.top5)
    return " / ".join("-" if value is None else f"{value:g}" for value in values)


def accuracy_source(entry: Entry) -> str:
    """Return the source of the published accuracy, with a link if it is a file of a public repository."""
    source = entry.reported.source or ""
    match = re.match(r"(\w+) (\S+) @(\w+)", source)
    if match is None or match[1] not in REPOSITORIES:
        return source
    repository, folder = REPOSITORIES[match[1]]
    return f"[{match[1]} @{match[3][:7]}](https://github.com/{repository}/blob/{match[3]}/{folder}{match[2]})"


def weights_source(entry: Entry) -> str:
    """Return a link to the published file."""
    source = entry.sources[0]
    if source.kind == "bundled":
        return "bundled"
    return f"[{HOSTS.get(source.kind) or source.url.split('/')[2]}]({source.url})"


def verification(entry: Entry) -> str:
    """Return the digest with which a downloaded file is compared."""
    if entry.sha256:
        return "SHA-256"
    return f"{len(entry.sha256_prefix)} digits" if entry.sha256_prefix else "first download"


def size(entry: Entry) -> list[str]:
    """Return the cells of computation and parameters."""
    return [f"{entry.gmacs.value:.2f}", f"{entry.params / 1e6:.2f}"]


def trained() -> str:
    """List the networks with trained video weights."""
    columns = ("name", "dataset", "frames", "views", "GMACs", "M params", "top-1 / top-5", "accuracy from", "weights",
               "file check")  # fmt: skip
    rows = []
    for entry in map(info, list_models(pretrained=True)):
        views = entry.reported.views or f"({entry.protocol.clips}x{entry.protocol.crops})"
        cells = [f"`{entry.name}`", entry.dataset, str(entry.protocol.num_frames), views, *size(entry)]
        rows.append([*cells, accuracy(entry), accuracy_source(entry), weights_source(entry), verification(entry)])
    return table(columns, rows)


def starts() -> str:
    """List the starting points for fine-tuning, whose temporal operators are untrained."""
    columns = ("name", "weights from", "frames", "GMACs", "M params", "weights", "file check")
    rows = []
    for entry in map(info, list_models(pretrained=False)):
        cells = [f"`{entry.name}`", entry.dataset, str(entry.protocol.num_frames), *size(entry)]
        rows.append([*cells, weights_source(entry), verification(entry)])
    return table(columns, rows)


def span(values: Iterable[float], digits: int) -> str:
    """Return "smallest - largest", one number if they are equal, or "" without values."""
    texts = list(dict.fromkeys(f"{value:.{digits}f}" for value in sorted(values)))
    return " - ".join(texts if len(texts) < 2 else (texts[0], texts[-1]))


def families() -> str:
    """Summarize the networks with trained video weights by family and publisher."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in map(info, list_models(pretrained=True, bundled=False)):
        publisher = (entry.reported.source or "TAdaConv").split()[0]  # its networks for K710 have no published accuracy
        family = f"{BUILDER}*" if entry.arch.startswith(BUILDER) else family_of(entry.arch)
        groups.setdefault((family, publisher), []).append(entry)
    columns = ("family", "networks", *(f"{title} top-1, %" for title in DATASETS.values()), "M params", "weights from")
    rows = []
    for (family, publisher), entries in groups.items():
        accuracies = [
            span((e.reported.top1 for e in entries if e.dataset == dataset and e.reported.top1 is not None), 1)
            for dataset in DATASETS
        ]
        link = f"[{publisher}](https://github.com/{REPOSITORIES[publisher][0]})"
        parameters = span((e.params / 1e6 for e in entries), 0)
        rows.append([f"`{family}`", str(len(entries)), *accuracies, parameters, link])
    return table(columns, rows)


BLOCKS: dict[str, Callable[[], str]] = {"trained": trained, "starts": starts, "families": families}


def fill(text: str) -> str:
    """Replace the blocks of a page by tables of the index."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}{BLOCKS[name]()}\n{end}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Update both pages."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
