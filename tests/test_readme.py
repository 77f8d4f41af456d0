"""The README's example prints what the README says."""

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def test_the_example_prints_what_it_says():
    results = doctest.testfile(str(README), module_relative=False)
    assert results.attempted >= 12
    assert results.failed == 0


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
