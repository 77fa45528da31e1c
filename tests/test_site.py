"""The documentation's site: its reference has everything that the code has, its links lead somewhere, its notebook runs.

test_checks.py builds the site itself; a broken link or a page that needs the network ends the build.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import yaml
from command_line import ROOT
from test_docs import _BLOCK, registered, text

sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import reference_pages
import site_hooks
from mkdocs.exceptions import PluginError

from diamond_bench.compose import groups, known_keys
from diamond_bench.config import REGISTRIES
from diamond_bench.metrics.columns import METRIC_INFO


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return reference_pages.reference_pages()


def test_the_reference_lists_every_key(reference: dict[str, str]) -> None:
    page = reference["reference/config.md"]
    listed = set(re.findall(r"^\| `([\w.]+)`(?:<br>.*?)? \| [^|]+ \| [^|]+ \| `", page, re.MULTILINE))
    assert {key for key in known_keys() if not key.endswith("name")} <= listed
    options = [(group, option.settings_type()) for group, registry in REGISTRIES.items() for option in registry.values()]
    fields = {(group, name) for group, settings in options for name in settings.__dataclass_fields__ if name not in ("name", "schedule")}
    assert all(any(f"{group}.{name}." in f"{key}." for key in listed) for group, name in fields)
    assert re.search(r"^\| `env.pooling`<br>\w.* \| name \| `raw`, `in_place` \| `in_place` \| `raw` \| yes \|$", page, re.MULTILINE)
    assert re.search(r"^\| `execution.num_threads`<br>.* \| integer \| 1 to 1024 \| `2` \| `2` \| no \|$", page, re.MULTILINE)
    assert re.search(r"^\| `sampler.eta`<br>.* \| number \| 0 to 1 \| `1.0` \| `1.0` \| yes \|$", page, re.MULTILINE)
    families = ("diamond", "csgo", "tokens_small", "transformer_small", "cascade", "copy_last_frame", "oracle", "tokens", "transformer")
    named = ", ".join(f"`{family}`" for family in families)
    assert re.search(rf"^\| `family`<br>.* \| name \| {named} .*\| yes \|$", page, re.MULTILINE)
    assert re.search(r"^\| `conditioning.frames`<br>.* \| name \| `stack`, `cross_attention`, `both` \| `stack` \|", page, re.MULTILINE)
    assert re.search(r"^\| `network.depths`<br>.* \| list of integers \| each at least 1 \|", page, re.MULTILINE)
    keys = [line.split(" | ") for line in page.splitlines() if line.endswith((" | yes |", " | no |"))]
    assert len(keys) > 150
    assert not [cells[0] for cells in keys if len(cells) != 6 or "<br>" not in cells[0] or not all(map(str.strip, cells))]
    assert "| `training.num_steps` | `100000` | `8000` | `1400` | `280` | `12` |" in page  # the scales


def test_the_defaults_of_a_family_s_groups_are_those_of_the_family(reference: dict[str, str]) -> None:
    (row,) = re.findall(r"^\| `family\.inner\.conditioning\.actions`.*$", reference["reference/config.md"], re.MULTILINE)
    assert row.split(" | ")[3] == "`active_bits`"


def test_the_reference_lists_every_command_metric_and_study(reference: dict[str, str]) -> None:
    commands = reference["reference/commands.md"]
    assert set(re.findall(r"^## (.+)$", commands, re.MULTILINE)) == registered()
    assert "diamond-bench import FILE [game=GAME] [sigma_data=0.5] [sigma_offset_noise=0.3]\n" in commands
    assert "| `--dry-run` | Show the jobs and their cost. Run nothing. |" in commands
    metrics = reference["reference/metrics.md"]
    assert re.search(r"^\| `one_step_psnr` \| always \| .+ \| dB \| higher \|$", metrics, re.MULTILINE)
    listed = {name for line in metrics.splitlines() for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])}
    assert {column.listed_as or name for name, column in METRIC_INFO.items()} <= listed
    options = re.findall(r"^\| `([\w/]+)` \| `(\w+)` \| ", reference["reference/config.md"].partition("## Options")[2], re.MULTILINE)
    assert set(options) == {(group, option) for group, found in groups().items() for option in found if group != "scale"}
    studies = set(re.findall(r"^## (.+)$", reference["reference/studies.md"], re.MULTILINE))
    assert studies == {file.stem for file in (ROOT / "experiments").glob("*.yaml")}


def test_links_lead_to_the_site_s_pages() -> None:
    assert site_hooks.site_link("../experiments/solver.yaml", "docs/studies.md", "studies.md") == "source/experiments/solver.yaml.md"
    assert site_hooks.site_link("docs/api.md", "README.md", "index.md") == "api.md"
    assert site_hooks.site_link("../../README.md", "docs/tutorials/first_study.md", "tutorials/first_study.md") == "../index.md"
    assert site_hooks.site_link("../no_such_file.md", "docs/api.md", "api.md") == "../no_such_file.md"  # the strict build refuses it


@pytest.mark.parametrize(
    "fetched", ["<script src=https://host/x.js>", '<link rel="stylesheet" href="//host/x.css">', "<img src='http://host/x'>"]
)
def test_a_page_that_needs_the_network_is_refused(fetched: str) -> None:
    page: Any = type("Page", (), {"file": type("File", (), {"src_uri": "api.md"})})
    with pytest.raises(PluginError, match=r"api\.md: fetches"):
        site_hooks.on_post_page(fetched, page, site_hooks.MkDocsConfig())
    links = '<a href="https://host/">a link that the reader may follow</a><script src="assets/x.js">'
    assert site_hooks.on_post_page(links, page, site_hooks.MkDocsConfig()) == links


def test_the_cells_of_a_table_name_their_columns() -> None:
    rows = "<thead><tr><th>A</th><th><code>b</code></th>{}</tr></thead><tbody><tr><td>1</td><td align='right'>2</td>{}</tr></tbody>"
    narrow = f"<table>{rows.format('', '')}</table>"
    assert site_hooks.labelled(narrow) == narrow.replace("<table>", "<table data-labelled>")
    wide = site_hooks.labelled(f"<table>{rows.format('<th>c</th>', '<td>3</td>' + '</tr><tr>' + '<td>4</td>' * 3)}</table>")
    assert re.findall(r'data-label="(.*?)"', wide) == ["A", "b", "c", "A", "b", "c"]
    assert wide.startswith("<table data-labelled>")


@pytest.mark.timeout(1200)  # it waits for the shared store
def test_the_notebook_runs(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAMOND_BENCH_OUTPUTS", str(tiny_store))
    names: dict[str, Any] = {}
    for code in notebook_code(ROOT / "docs" / "notebooks" / "finished_study.ipynb"):
        exec(code, names)
    assert list(names["drift"].index) == ["n=1", "n=2", "n=3", "n=5", "n=10"]
    assert set(names["compared"]["baseline"]) == {"n=1"}
    assert len(names["own"].axes[0].patches) == 5
    plt.close("all")


def notebook_code(file: Path) -> Iterator[str]:
    for cell in json.loads(file.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "clear the outputs before the notebook is committed"
            yield "".join(cell["source"])


def test_the_makefile_runs_the_readme_s_commands() -> None:
    recipes = dict(re.findall(r"^([a-z-]+):.*\n\t(.+)$", text("Makefile"), re.MULTILINE))
    lines = [line for _, block in _BLOCK.findall(text("README.md")) for line in block.splitlines()]
    parts = [recipes[target].replace("$(BIN)", ".venv/bin") for target in ("install", "test")]
    assert " && ".join(parts) in lines
    demo = recipes["demo"].replace("$(BIN)", ".venv/bin")
    assert any(line.endswith(demo) for line in lines)


def test_the_version_stands_in_citation_and_changelog() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version
    assert f"## {version}" in text("CHANGELOG.md")
