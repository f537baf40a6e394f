"""Hooks of the documentation site (mkdocs.yml): links that lead out of docs/ work in the site, too.

The pages link to files of the repository as a reader of the repository needs it (`../SECURITY.md`). The site contains
these files under `repository/`, and the links are rewritten to them.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
#: Pages that are not in docs/.
PAGES = (
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "models/artifacts/README.md",
)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_config(config: Any) -> Any:
    """List every decision in the navigation: nobody has to remember it."""
    titles = {
        f"adr/{path.name}": path.read_text().partition("\n")[0].removeprefix("# ")
        for path in sorted((ROOT / "docs" / "adr").glob("*.md"))
    }
    for section in config.nav:
        if section.get("Decisions") == "adr/":
            section["Decisions"] = [{title: uri} for uri, title in titles.items()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside docs/, and every file that a page links to."""
    pages = {path: (ROOT / path).read_text() for path in PAGES}
    for file in files.documentation_pages():
        pages[f"docs/{file.src_uri}"] = file.content_string
    wanted = dict.fromkeys(PAGES)
    for path, text in pages.items():
        wanted |= {target: None for target in _targets(path, text) if not _in_docs(target)}
    for target in wanted:
        if not (ROOT / target).is_file():
            msg = f"a page links to {target}, which is not a file of this repository"
            raise PluginError(msg)
        files.append(File.generated(config, _uri(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page."""
    here = page.file.src_uri
    path = here.removeprefix("repository/") if here.startswith("repository/") else f"docs/{here}"

    def moved(link: re.Match[str]) -> str:
        return posixpath.relpath(_uri(_resolved(path, link[1])), posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def _targets(path: str, text: str) -> list[str]:
    return [_resolved(path, link[1]) for link in _LINK.finditer(text)]


def _resolved(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _in_docs(target: str) -> bool:
    return target.startswith("docs/")


def _uri(target: str) -> str:
    return target.removeprefix("docs/") if _in_docs(target) else f"repository/{target}"
