"""The files of the page of play, without a browser."""

import re

from command_line import ROOT

from diamond_bench.play import keys

PAGE = ROOT / "diamond_bench" / "play" / "page"
CODES = re.findall(r'^  \["(\w+)", "', (PAGE / "input.js").read_text(), re.MULTILINE)
"""Keys that steer the page."""


def test_keys_of_the_page_are_no_keys_of_a_game() -> None:
    assert {"Period", "KeyE", "KeyM", "Enter"} < set(CODES)
    assert not set(CODES) & {*keys._OTHERS, *(key for ways in keys._BUTTONS.values() for key in ways)}


def test_the_page_asks_for_nothing_from_elsewhere_and_takes_no_text_as_markup() -> None:
    files = {file.name: file.read_text() for file in PAGE.iterdir()}
    assert {"index.html", "play.js", "play.css"} < set(files)
    for name, text in files.items():
        assert not re.search(r"(?<!xmlns=\")(?<!NS\(\")https?://|innerHTML|insertAdjacentHTML|document\.write|\beval\b", text), name
        linked = re.findall(r'(?:\b(?:href|src)=|\bfrom )"(?!#)(?:\./)?([^"]+)"', text)
        assert set(linked) <= set(files), name
