"""How variants and methods look: no two alike, one look for each variant, for readers of every colour vision."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from analysis.looks import MAX_LOOKS, OKABE_ITO, Style, crossed_styles, styles

# Machado, Oliveira, Fernandes (2009), severity 1.0: what a dichromat sees of linear RGB.
DICHROMATS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
NORMAL = np.eye(3).tolist()


def lab(color: object, seen: list[list[float]]) -> np.ndarray:
    """CIELAB of a colour as someone sees it (D65)."""
    rgb = np.asarray(to_rgb(color))  # type: ignore[arg-type]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(seen) @ linear, 0.0, 1.0)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one: object, other: object, seen: list[list[float]]) -> float:
    """CIE76 colour difference; about 2.3 is just noticeable."""
    return float(np.linalg.norm(lab(one, seen) - lab(other, seen)))


def pairs(looks: dict[str, Style]) -> list[tuple[object, str]]:
    return [(look.color, look.marker) for look in looks.values()]


def test_the_difference_of_colours_is_the_published_one() -> None:
    assert lab("white", NORMAL) == pytest.approx([100, 0, 0], abs=0.1)
    assert lab("#ff0000", NORMAL) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)


@pytest.mark.parametrize("sight", DICHROMATS)
def test_colours_differ_for_every_colour_vision(sight: str) -> None:
    for one, other in itertools.combinations(OKABE_ITO, 2):
        assert apart(one, other, DICHROMATS[sight]) > 10, (one, other)


def test_no_two_names_share_colour_and_marker_up_to_the_most() -> None:
    names = [f"method {i}" for i in range(MAX_LOOKS)]
    for ordered in (False, True):
        assert len(set(pairs(styles(names, ordered)))) == MAX_LOOKS
    with pytest.raises(ValueError, match="92 names do not fit into one figure: there are 91 different looks"):
        styles([*names, "one more"])


def test_variants_can_be_told_apart_without_colour() -> None:
    names = [f"v{i}" for i in range(20)]
    looks = [(str(s.linestyle), s.marker) for s in styles(names).values()]
    assert len(set(looks)) == len(names)
    lightness = [np.dot(to_rgb(s.color), (0.299, 0.587, 0.114)) for s in styles(names[:5], ordered=True).values()]
    assert (np.diff(lightness) > 0.08).all()
    assert lightness[-1] < 0.8  # still visible on white


@pytest.mark.parametrize(("lines", "steps"), [(1, 1), (1, 6), (4, 1), (4, 6), (9, 5), (20, 3)])
def test_variants_of_a_study_all_look_different(lines: int, steps: int) -> None:
    cells = {f"{line} {n}": (f"line {line}", n) for line in range(lines) for n in range(steps)}
    looks = crossed_styles(cells, ["0 0"])
    assert len(set(pairs(looks))) == lines * steps
    assert [name for name, look in looks.items() if look.baseline] == ["0 0"]
    for one, other in itertools.combinations(looks.values(), 2):
        if one.marker == other.marker:
            assert all(apart(one.color, other.color, seen) > 5 for seen in (NORMAL, *DICHROMATS.values()))


def test_numbers_of_steps_go_from_dark_to_light_in_the_order_of_the_numbers() -> None:
    looks = crossed_styles({f"{arm} {n}": (arm, n) for arm in ("a", "b") for n in (10, 1, 3)})
    for arm in ("a", "b"):
        light = [lab(looks[f"{arm} {n}"].color, NORMAL)[0] for n in (1, 3, 10)]
        assert (np.diff(light) > 5).all()
    for n in (1, 3, 10):
        assert looks[f"a {n}"].marker == looks[f"b {n}"].marker
    single = crossed_styles({f"n = {n}": ("", n) for n in (1, 3, 10)})
    assert (np.diff([lab(look.color, NORMAL)[0] for look in single.values()]) > 10).all()


def test_the_baseline_has_an_outline_and_says_so() -> None:
    looks = crossed_styles({"a": ("a", None), "b": ("b", None)}, ["b"])
    assert (looks["a"].label("a"), looks["b"].label("b")) == ("a", "b (baseline)")
    assert "markeredgecolor" not in looks["a"].line
    assert looks["b"].line["markeredgecolor"] == "black"
