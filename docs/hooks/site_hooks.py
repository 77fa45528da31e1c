"""MkDocs hooks: pages that are generated from the code and from files outside docs/, and links that lead to such files.

Pages of docs/ link to the repository's files as `../path`, so that they also work when they are read in the repository. The site shows
each linked file as a page of its own under source/.
"""

import itertools
import json
import posixpath
import re
from pathlib import Path

from metric_cards import with_registry
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from reference_pages import reference_pages

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the root that are pages of the site."""
DESCRIBED = {
    "experiments": "reference/studies.md",
    "diamond_bench/config": "reference/config.md",
    "diamond_bench/metrics": "reference/metrics.md",
    "diamond_bench/cli": "reference/commands.md",
    "diamond_bench/api.py": "reference/api.md",
}
"""Folders and files that a page of the reference describes."""
_FETCHED = re.compile(r"""<(script|link|img|iframe|source)\b[^>]*\b(src|href)=["']?(https?:)?//[^>]*""")
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and one page for each file or folder that the pages link to outside docs/."""
    texts = {source: (ROOT / source).read_text() for source in PAGES}
    generated = reference_pages()
    texts |= {f"docs/{name}": text for name, text in generated.items()}
    pages = {page: texts[source] for source, page in PAGES.items()} | generated
    for file in list(files):
        if file.src_uri.endswith(".md"):
            texts[f"docs/{file.src_uri}"] = file.content_string
        if file.src_uri.endswith(".ipynb"):
            pages[file.src_uri.replace(".ipynb", ".md")] = notebook_page(file.content_string, file.name)
    targets = {in_repository(link, source) for source, text in texts.items() for link in links(text)}
    for path in sorted(path for path in targets if (ROOT / path).exists() and site_page(path).startswith("source/")):
        files.append(File.generated(config, site_page(path), content=source_page(path), inclusion=InclusionLevel.NOT_IN_NAV))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points a page's links at the site's pages."""
    uri = page.file.src_uri
    if uri == "metrics.md":
        markdown = with_registry(markdown)
    source = next((root for root, name in PAGES.items() if name == uri), f"docs/{uri}")
    return _LINK.sub(lambda link: site_link(link[1], source, uri), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Labels the cells of tables. Raises PluginError if a page would fetch something from elsewhere when it is read."""
    if fetched := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: fetches {fetched[0]!r} when it is read; ship the file in docs/")
    return _TABLE.sub(lambda table: labelled(table[0]), output)


def labelled(table: str) -> str:
    """A table whose cells name their columns, for phones (extra.css). With two columns the names add nothing and are left out."""
    heads = [re.sub(r"<[^>]+>", "", head).replace('"', "&quot;") for head in re.findall(r"<th\b[^>]*>(.*?)</th>", table, re.DOTALL)]
    columns = itertools.cycle(heads)
    named = re.sub(r"<td\b", lambda cell: f'{cell[0]} data-label="{next(columns)}"', table) if len(heads) > 2 else table
    return named.replace("<table>", "<table data-labelled>")


def links(text: str) -> list[str]:
    """The files that a text of Markdown links to."""
    return [link for link in _LINK.findall(text) if "://" not in link]


def in_repository(link: str, source: str) -> str:
    """The path in the repository that a link of the file `source` names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def site_link(link: str, source: str, uri: str) -> str:
    """The link that leads from the site's page `uri`, whose text is the file `source`, to what `link` names in the repository.

    A link stays as it is where the repository has no such file.
    """
    path = in_repository(link, source)
    if "://" in link or not (ROOT / path).exists():
        return link
    return posixpath.relpath(site_page(path), posixpath.dirname(uri) or ".")


def site_page(path: str) -> str:
    """The site's page of a path in the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path) or DESCRIBED.get(path) or f"source/{path}.md"


def source_page(path: str) -> str:
    """A page that shows a file, or lists a folder's files."""
    file, unsearched = ROOT / path, "---\nsearch:\n  exclude: true\n---\n"
    if file.is_dir():
        names = [child.name for child in sorted(file.iterdir()) if not child.name.startswith("__")]
        return f"{unsearched}# {path}/\n\n" + "\n".join(f"- `{name}`" for name in names)
    language = {".py": "python", ".yaml": "yaml", ".toml": "toml"}.get(file.suffix, "text")
    return f"{unsearched}# {path}\n\n````{language}\n{file.read_text()}\n````\n"


def notebook_page(text: str, name: str) -> str:
    """A notebook as a page: its text and its code."""
    cells = ["".join(cell["source"]) if cell["cell_type"] == "markdown" else code_block(cell) for cell in json.loads(text)["cells"]]
    return "\n\n".join([*cells, f"[Download the notebook]({name}.ipynb)"])


def code_block(cell: dict[str, list[str]]) -> str:
    """A code cell of a notebook as a block of Markdown."""
    return f"```python\n{''.join(cell['source'])}\n```"
