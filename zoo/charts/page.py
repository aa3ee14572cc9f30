"""A web page of published accuracy against computation and time, in one file without external requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from zoo.charts.points import Point, family_styles

TEMPLATE = Path(__file__).with_name("page.html")
SLOT = "/* DATA */"


def render(points: Sequence[Point]) -> str:
    """Return the page as HTML. The browser draws the charts from the data in the page."""
    families = dict.fromkeys(point.family for point in points)
    styles = {family: style for family, style in family_styles().items() if family in families}
    data = json.dumps({"points": [asdict(point) for point in points], "styles": styles}, ensure_ascii=False)
    # "<" would end the script if a name of the index contained "</script>"
    return TEMPLATE.read_text(encoding="utf-8").replace(SLOT, data.replace("<", "\\u003c"))
