"""Every page of docs/ has its place in the site's navigation; `make docs` checks links and anchors."""

import re

import yaml

from tests.dependency_locks import ROOT

NAVIGATION = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]


def test_every_page_is_in_the_navigation() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"(?<=: )[\w-]+\.md$", NAVIGATION, re.MULTILINE)), (
        "add the page to the navigation in mkdocs.yml"
    )


def test_the_settings_of_the_site_are_strict() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["strict"]
    assert site["validation"]["anchors"] == "warn"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(set(numbers)) == len(numbers), numbers
    for page in pages:
        assert page.read_text().startswith(f"# {int(page.name[:4])}. "), page.name


def test_the_list_of_decisions_is_complete() -> None:
    folder = ROOT / "docs" / "adr"
    lines = (folder / "README.md").read_text()
    for page in sorted(folder.glob("0*.md")):
        number, title = page.read_text().splitlines()[0].removeprefix("# ").split(". ", 1)
        assert f"| {number} | [{title}]({page.name})" in lines, "list it in docs/adr/README.md"
