"""The generated pages are what the code says now, and the sample job of the docs loads."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_generated_pages_are_true() -> None:
    pages = runpy.run_path(str(ROOT / "scripts" / "docs.py"))["pages"]()
    assert [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text] == [], "run: make docs"


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = [part.split(")")[0] for part in page.read_text(encoding="utf-8").split("](")[1:]]
    missing = [
        link for link in links if not link.startswith(("http", "#")) and not (page.parent / link.partition("#")[0]).exists()
    ]
    assert missing == []
