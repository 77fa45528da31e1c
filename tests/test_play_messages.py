"""The protocol of play: the messages of the page, their limits, and the form of the settings."""

import dataclasses
import json
import re

import pytest

from diamond_bench.config import SAMPLERS, OdeSampler
from diamond_bench.play import messages
from diamond_bench.play.form import settings_form
from diamond_bench.play.lanes import Setting
from diamond_bench.play.messages import MAX_TEXT, MESSAGES, Ack, Change, Keys, Malformed, Reset, packed, parse, unpacked
from diamond_bench.typed import build, to_plain

EXAMPLES = re.findall(r'\{"do".*?\}(?= {2,}|\n)', messages.__doc__ or "")


def test_the_examples_of_the_reference_are_all_messages() -> None:
    assert {json.loads(example)["do"] for example in EXAMPLES} == set(MESSAGES)
    assert parse(EXAMPLES[1]) == Keys(["KeyW", "Space"], 1234.5, [0, 0])
    assert parse('{"do": "reset"}') == Reset(None, None)
    assert parse('{"do": "ack", "number": 17, "shown": 1250.2}') == Ack(17, 1250.2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("[1]", "expected an object"),
        ("{", "not JSON"),
        ("[" * 2000, "levels"),
        ('{"held": []}', "do=None"),
        ('{"do": "rum"}', "did you mean run"),
        ('{"do": ["run"]}', "do="),
        ('{"do": "run", "at": 1}', "unknown key 'at'"),
        ('{"do": "keys", "held": ["KeyW"]}', "the key 'at'"),
        ('{"do": "keys", "held": "KeyW", "at": 1}', "held: expected a list"),
        ('{"do": "keys", "held": ["' + "W" * 21 + '"], "at": 1}', r"held\[0\]: expected at most 20"),
        ('{"do": "keys", "held": ' + json.dumps(["a"] * 17) + ', "at": 1}', "held: expected at most 16"),
        ('{"do": "keys", "held": [], "at": NaN}', "NaN"),
        ('{"do": "keys", "held": [], "at": 1e999}', "too large"),
        ('{"do": "keys", "held": [], "at": 1, "motion": [1, 1e6]}', r"motion\[1\]"),
        ('{"do": "keys", "held": ["\\ud800"], "at": 1}', "not JSON"),
        ('{"do": "fps", "fps": 0}', "0.1 to 120"),
        ('{"do": "fps", "fps": true}', "expected a number"),
        ('{"do": "go", "moment": -1}', "whole number from 0"),
        ('{"do": "go", "moment": 1.5}', "whole number from 0"),
        ('{"do": "player", "who": "me"}', "one of human, policy, recording"),
        ('{"do": "pictures", "format": ["png"]}', "one of png, webp, jpeg"),
        ('{"do": "act", "action": {}}', "whole number"),
        ('{"do": "save", "file": "/etc/passwd"}', "unknown key 'file'"),
        ('{"do": "run", "x": "' + "y" * MAX_TEXT + '"}', "expected at most 2,048"),
    ],
)
def test_a_malformed_message_is_refused_with_its_reason(text: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        parse(text)


def test_packed_messages_come_back() -> None:
    header, rest = unpacked(packed({"kind": "frame", "psnr": None}, [b"one", b"two"]))
    assert (header, rest) == ({"kind": "frame", "psnr": None}, b"onetwo")
    with pytest.raises(ValueError, match="JSON compliant"):
        packed({"psnr": float("inf")})


def test_what_the_form_offers_builds_a_setting() -> None:
    form = settings_form()
    assert set(form["samplers"]) == set(SAMPLERS)
    for name, fields in form["samplers"].items():
        sampler = {"name": name, **{field["name"]: field["default"] for field in fields}}
        message = parse(json.dumps({"do": "change", "lane": 0, "setting": {"sampler": sampler, "milestone": 0.5}}))
        assert isinstance(message, Change)
        setting = build(Setting, message.setting, "setting")
        assert to_plain(setting.sampler) == sampler
    fields = {field["name"]: field for field in form["samplers"]["euler"]}
    assert fields["num_steps"] == {"name": "num_steps", "kind": "whole", "default": 3, "minimum": 1, "maximum": 1000, "choices": None}
    assert fields["start_noise"]["choices"] == ["unit", "sigma_max", "variance_preserving"]
    assert [fields[name]["kind"] for name in ("schedule", "guidance", "s_tmax")] == ["schedule", "number", "number"]
    assert set(fields) == {field.name for field in dataclasses.fields(OdeSampler)} - {"name"}
    rho = next(field for field in form["schedules"]["karras"] if field["name"] == "rho")
    assert (rho["kind"], rho["default"], rho["minimum"]) == ("number", 7.0, 1e-3)
