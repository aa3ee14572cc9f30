"""Public names of packages that are imported at their first use, so that importing the package stays fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_attributes(
    package: str, modules: Mapping[str, str], *, together: bool = False
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose public names are imported at their first use (PEP 562).

    Submodules are imported at their first use as well.

    Args:
        package: ``__name__`` of the package.
        modules: public name -> module that defines it. An ``if TYPE_CHECKING`` block of the package imports the same
            names for type checkers.
        together: import all modules at the first use of a public name, because jsonargparse finds only imported
            subclasses by their short name.
    """

    def get_attribute(name: str) -> Any:
        """Import a public name or a submodule."""
        if name in modules:
            for module in modules.values() if together else ():
                import_module(module)
            value = getattr(import_module(modules[name]), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # later uses do not call this function
        return value

    def list_attributes() -> list[str]:
        """List the names of the package, including those that are not imported yet."""
        return sorted({*vars(sys.modules[package]), *modules})

    return get_attribute, list_attributes
