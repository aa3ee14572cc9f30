"""Names of actions that consist of a verb and a noun, as in EPIC-KITCHENS-100."""

from __future__ import annotations

from zoo.errors import DataError
from zoo.text import brief


def action_name(verb: str, noun: str) -> str:
    """Return the name of an action, such as "turn-on tap". Verbs have no spaces."""
    return f"{verb} {noun}"


def split_action(action: str) -> tuple[str, str]:
    """Return the verb and the noun of an action.

    Raises:
        DataError: the name does not consist of a verb, a space and a noun.
    """
    verb, _, noun = action.partition(" ")
    if not verb or not noun:
        raise DataError(f"{brief(action)} is not an action; expected a verb, a space and a noun, such as 'cut bread'.")
    return verb, noun
