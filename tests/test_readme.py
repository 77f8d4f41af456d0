"""The examples in the documentation print what it says, and its links lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(("page", "least"), [("README.md", 12), ("docs/lecture.md", 12)])
def test_the_example_prints_what_it_says(page, least):
    results = doctest.testfile(str(ROOT / page), module_relative=False)
    assert results.attempted >= least
    assert results.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_it_links_to_exists(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links or page.name == "design.md"
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_program_and_test_that_the_lecture_names_exists():
    text = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:examples|tests)/\w+\.py", text))
    assert len(named) >= 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    programs = {f"examples/{path.name}" for path in (ROOT / "examples").glob("[a-z]*.py")}
    assert programs - named == {"examples/own_op.py"}  # which is about the engine
