"""Whether the weights of a network were trained for its task, and what to say if they were not."""

from __future__ import annotations

from zoo.errors import ConfigError
from zoo.index import load_index
from zoo.models.network import VideoNetwork


def has_untrained_head(network: VideoNetwork) -> bool:
    """Whether the classifier of a network is untrained."""
    return any(key.startswith(network.head_prefix) for key in network.report.untrained)


def is_untrained(network: VideoNetwork) -> bool:
    """Whether a network has untrained parts, or weights that were trained for another network."""
    report = network.report
    return bool(report.still_untrained(dict(network.named_parameters()))) if report.untrained else report.start_only


def has_random_backbone(network: VideoNetwork) -> bool:
    """Whether all parameters of a network, except for its classifier, are untrained."""
    parameters = dict(network.named_parameters())
    backbone = {name for name in parameters if not name.startswith(network.head_prefix)}
    return backbone <= set(network.report.still_untrained(parameters))


def describe_untrained(network: VideoNetwork, name: str, head_change: str | None = None) -> str:
    """Return a sentence that names the untrained parts of a network.

    Args:
        network: network with untrained parts.
        name: name of the network.
        head_change: change of its classifier to the classes of the data.
    """
    report = network.report
    parts = report.untrained_parts
    entry = load_index().entries.get(str(network.spec.provenance.get("entry")))
    if report.untrained and len(report.untrained) == len(network.state_dict()):
        return f"{name} has random weights."
    if parts == ("classifier",) and head_change:
        return f"The classifier of {name} was {head_change}."
    text = f"{name} is a start for fine-tuning" if report.start_only else f"{name} is not fully trained"
    text += f"; untrained: {', '.join(parts)}." if parts else "."
    if entry is not None and entry.labels == "imagenet1k" and not has_untrained_head(network):
        text += " Its labels are those of images (ImageNet-1k), not of actions."
    return text


def untrained_error(network: VideoNetwork, name: str, head_change: str | None = None) -> ConfigError:
    """Return the error for scoring videos with untrained weights; the scores would look like trained ones."""
    advice = "Correct the labels, fine-tune" if head_change else "Fine-tune"
    return ConfigError(
        f"{describe_untrained(network, name, head_change)} {advice} with `tempozoo fit --from {name}`, or add "
        "--allow_untrained to run it as it is."
    )
