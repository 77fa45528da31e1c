"""A driver turned by hand, with a clock that is set by hand: keys, time, players, the tree, and what the page is sent."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from play_stand_ins import Page, counter, decoded, driven, opened_of, save_into
from small_agents import small_agent_config
from test_play_session import lane as small_lane
from test_play_session import setting, start_of
from test_worlds import TURN, played

from diamond_bench.agent import build_agent
from diamond_bench.errors import UserError
from diamond_bench.jobs.agent_learners import describe
from diamond_bench.play import messages as m
from diamond_bench.play.driver import Driver, warm_up
from diamond_bench.play.frames import encoded
from diamond_bench.play.input import Held, Latency
from diamond_bench.play.lanes import Lane, Real
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.outbox import Outbox
from diamond_bench.play.recording import read_recording
from diamond_bench.play.saver import Played, Saver
from diamond_bench.typed import to_plain


def test_the_newest_keys_at_the_time_of_the_step_are_played(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path)
    assert page.count == 2
    page.say("run")
    assert driver.turn() == pytest.approx(0.1)  # the first step was due at once
    assert page.count == 2
    page.say("keys", held=["Digit1"], at=10)
    page.say("keys", held=[], at=20)
    page.say("keys", held=["Digit2"], at=30)
    clock.now += 0.05
    assert driver.turn() == pytest.approx(0.05)
    assert page.last("frame")["step"] == 1
    clock.now += 0.05
    driver.turn()
    frame = page.last("frame")
    assert (frame["step"], frame["action"], page.count, frame["keys_at"]) == (2, 2, 4, 30)
    clock.now += 0.1
    driver.turn()
    frame = page.last("frame")
    assert (frame["action"], frame["keys_at"]) == (2, None)  # it is still held, and was answered
    page.say("keys", held=["Digit1"], at=40)
    page.say("keys", held=[], at=41)
    clock.now += 0.1
    driver.turn()
    assert page.last("frame")["action"] == 1  # a short press is not lost
    clock.now += 0.1
    driver.turn()
    assert page.last("frame")["action"] == 0


def test_a_pause_computes_nothing_and_wakes_for_nothing(tmp_path: Path) -> None:
    lane = counter()
    driver, page, clock = driven(tmp_path, opened_of(lambda: lane))
    world = lane.dynamics.world(None)
    page.say("run")
    driver.turn()
    assert world.calls == 1
    page.say("pause")
    page.say("keys", held=["Digit2"], at=1)
    page.say("keys", held=[], at=2)
    clock.now += 10
    assert driver.turn() is None
    assert driver.turn() is None
    assert world.calls == 1
    assert page.last("state")["running"] is False
    page.say("run")
    driver.turn()
    assert page.last("frame")["action"] == 0  # what was pressed and released in the pause is forgotten


def test_late_steps_are_not_caught_up_and_none_is_skipped(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path)
    page.say("run")
    driver.turn()
    clock.now += 1.0  # ten frames too late
    assert driver.turn() == 0
    clock.now += 0.02
    assert driver.turn() == pytest.approx(0.08)
    assert page.last("frame")["step"] == 3
    for _ in range(10):
        clock.now += 0.1
        driver.turn()
    assert page.last("frame")["fps"] == pytest.approx(12 / 2.02, abs=0.01)
    page.say("fps", fps=20)
    clock.now += 0.1
    assert driver.turn() == pytest.approx(0.03)  # 0.05 after it was due


def test_a_slow_reader_gets_the_newest_picture(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path)
    page.say("run")
    for _ in range(9):
        clock.now += 0.1
        driver.turn()
        page.read(ack=False)
    sent = [message["step"] for message in page.got if message["kind"] == "frame"]
    assert sent == [0, 1, 2]
    page.box.seen(3)
    assert (page.read()[-1]["step"], page.box.dropped) == (9, 6)


def test_steps_rewinds_and_branches_come_in_short_form(tmp_path: Path) -> None:
    driver, page, _ = driven(tmp_path)
    page.say("act", action=1)
    for _ in range(4):
        page.say("step")
    page.say("rewind", steps=3)
    driver.turn()
    assert (page.last("frame")["moment"], page.count) == (1, 3)
    assert page.last("tree")["runs"] == [[0, None, 0, 1]]
    page.say("act", action=2)
    page.say("step")
    page.say("step")
    driver.turn()
    kinds = [message["kind"] for message in page.read()]
    assert kinds.index("tree") < kinds.index("frame")
    assert page.last("tree")["runs"] == [[0, None, 0, 5], [5, 1, 2, 1]]
    frame = page.last("frame")
    assert (frame["moment"], frame["before"], frame["step"], page.count) == (6, 5, 3, 5)
    for moment in (1, 2, 4):
        page.say("go", moment=moment)
    driver.turn()
    assert [message["moment"] for message in page.read() if message["kind"] == "frame"] == [4]
    page.say("go", moment=99)
    driver.turn()
    assert "moments 0 to 6" in page.last("notice")["text"]
    assert page.last("frame")["moment"] == 4


def test_rewards_are_summed_along_the_path_and_play_stops_at_the_end_of_the_game(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path)
    page.say("keys", held=["Digit2"], at=0)
    page.say("run")
    for _ in range(9):
        clock.now += 0.1
        driver.turn()
        page.read()
    lanes = [message["lanes"][0] for message in page.got if message["kind"] == "frame"]
    assert [lane["reward"] for lane in lanes] == [0, 0, 1, 0, -1, 1, 0]  # at 2, 4, 6, 8, 10, 12, 14
    assert [lane["return"] for lane in lanes] == [0, 0, 1, 1, 0, 1, 1]
    assert [lane["ended"] for lane in lanes] == [False] * 6 + [True]
    state = page.last("state")
    assert (state["running"], state["over"]) == (False, "the game is over")
    page.say("run")  # the model may be wrong
    for _ in range(3):
        clock.now += 0.1
        driver.turn()
    assert page.last("frame")["step"] == 9
    page.say("rewind", steps=5)
    driver.turn()
    assert page.last("state")["over"] is None
    assert page.last("frame")["lanes"][0]["return"] == 0


def test_the_horizon_ends_a_run_and_refuses_steps(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path, horizon=2)
    page.say("run")
    for _ in range(4):
        clock.now += 0.1
        driver.turn()
    assert (page.last("frame")["step"], page.last("state")["over"]) == (2, "the horizon of 2 steps is reached")
    page.say("step")
    driver.turn()
    assert page.last("notice")["text"].startswith("the horizon of 2 steps is reached; rewind")
    page.say("horizon", steps=3)
    page.say("step")
    driver.turn()
    assert page.last("frame")["step"] == 3


def test_settings_change_while_it_runs_and_stay_after_a_reset(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path, opened_of(lambda: small_lane("model"), start=lambda place: start_of(played())))
    page.say("run")
    driver.turn()
    page.say("change", lane=0, setting={"sampler": {"name": "euler", "num_steps": 1}})
    page.say("seed", seed=4)
    page.say("pictures", format="webp")
    driver.turn()
    assert page.last("state")["settings"] == [to_plain(setting(1))]
    clock.now += 0.1
    driver.turn()
    expected = driver._session.now
    assert (expected.settings, expected.seed, expected.step) == ((setting(1),), 4, 2)
    assert page.last("state")["running"]
    page.read()
    assert np.array_equal(decoded(page.pictures), expected.shown[0].frame)
    page.say("strip", lane=0)
    driver.turn()
    strip = page.last("strip")
    assert (strip["of"], len(strip["calls"]), strip["moment"]) == (1, 1, 2)
    assert page.last("state")["running"] is False
    page.say("reset", start=1, seed=3)
    driver.turn()
    state = page.last("state")
    assert (state["seed"], state["settings"]) == (3, [to_plain(setting(1))])
    assert page.last("frame")["step"] == 0
    for wrong in ({"num_steps": 0}, {"num_stepz": 1}, {"name": "pickle"}):
        page.say("change", lane=0, setting={"sampler": {"name": "euler", **wrong}})
        driver.turn()
        assert "setting.sampler" in page.last("notice")["text"]
    page.say("change", lane=1, setting={})
    driver.turn()
    assert page.last("notice")["text"] == "lane 1: there are the lanes 0 to 0"


def test_a_policy_plays_what_the_session_draws(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = build_agent(describe(small_agent_config(f"game={TURN}"))).actor_critic
    opened = opened_of(lambda: replace(small_lane("model"), policy=policy), start=lambda place: start_of(played()))
    driver, page, clock = driven(tmp_path, opened, player="policy")
    page.say("keys", held=["Digit1"], at=0)
    page.say("run")
    drawn = []
    for _ in range(5):
        drawn.append(int(driver._session.policy_action(0)))
        clock.now += 0.1
        driver.turn()
        page.read()
    frames = [message for message in page.got if message["kind"] == "frame"][1:]
    assert [frame["action"] for frame in frames] == drawn
    assert sum(frames[-1]["lanes"][0]["policy"]) == pytest.approx(1)
    assert page.last("welcome")["lanes"][0]["policy"]
    with pytest.raises(UserError, match="there is no policy"):
        driven(tmp_path, player="policy")


def test_the_difference_from_the_real_game_is_shown_and_measured(tmp_path: Path) -> None:
    def lanes() -> list[Lane]:
        return [small_lane("model"), Lane("game", Real(played()))]

    model, game = lanes()
    opened = opened_of(lambda: model, lambda: game, start=lambda place: start_of(played()))
    opened = replace(opened, facts=(opened.facts[0], replace(opened.facts[1], real=True)))
    driver, page, _ = driven(tmp_path, opened)
    page.say("compare", lane=0)
    page.say("act", action=1)
    page.say("step")
    driver.turn()
    frame, now = page.last("frame"), driver._session.now
    ours, theirs = (shown.frame.astype(int) for shown in now.shown)
    assert frame["lanes"][0]["mse"] == pytest.approx(((ours - theirs) ** 2).mean() / 255**2)
    assert frame["lanes"][1]["mse"] is None
    sizes = [lane["bytes"] for lane in frame["lanes"]]
    assert np.array_equal(decoded(page.pictures[sum(sizes) :]), abs(ours - theirs))
    assert np.array_equal(decoded(page.pictures[sizes[0] : sum(sizes)]), theirs)
    assert len(page.pictures) == sum(sizes) + frame["difference"]["bytes"]
    page.say("compare", lane=1)
    driver.turn()
    assert "game: expected another lane" in page.last("notice")["text"]


def test_keys_that_were_pressed_while_a_policy_played_are_forgotten(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = build_agent(describe(small_agent_config(f"game={TURN}"))).actor_critic
    opened = opened_of(lambda: replace(small_lane("model"), policy=policy), start=lambda place: start_of(played()))
    driver, page, clock = driven(tmp_path, opened, player="policy")
    page.say("run")
    driver.turn()
    page.say("keys", held=["Digit1"], at=5)
    page.say("keys", held=[], at=6)
    page.say("player", who="human")
    clock.now += 0.1
    driver.turn()
    frame = page.last("frame")
    assert (frame["action"], frame["keys_at"]) == (0, None)


def settled(driver: Driver) -> list[Path]:
    """All files, when the recordings of now are written."""
    driver.saver._thread.submit(int).result(20)
    return driver.saver.files


def test_what_was_played_is_saved_on_save_reset_and_stop(tmp_path: Path) -> None:
    driver, page, _ = driven(tmp_path)
    page.say("save")
    driver.turn()
    assert "nothing was played" in page.last("notice")["text"]
    for action in (1, 2, 2):
        page.say("act", action=action)
        page.say("step")
    page.say("save")
    page.say("save")
    driver.turn()
    assert len(settled(driver)) == 1
    assert [message["files"] for message in page.read() if message["kind"] == "saved"] == [[str(tmp_path / "0.json")]] * 2
    page.say("act", action=1)
    page.say("step")
    page.say("rewind", steps=4)  # what was played is saved though the player has gone back
    page.say("reset")
    driver.turn()
    settled(driver)
    assert page.last("saved")["files"] == [str(tmp_path / "1.json")]
    page.say("reset")
    page.say("act", action=2)
    page.say("step")
    driver.turn()
    driver.stop()
    driver.run()
    driver.saver.close()
    files = driver.saver.files
    assert [[step.action for step in read_recording(file).steps] for file in files] == [[1, 2, 2], [1, 2, 2, 1], [2]]


def test_what_is_saved_has_the_rate_of_play_and_the_ends_of_all_branches(tmp_path: Path) -> None:
    given: list[Played] = []
    driver = Driver(opened_of(), PlayOptions(fps=10.0), lambda played: given.append(played) or [])  # type: ignore[func-returns-value]
    page = Page(driver)
    page.say("fps", fps=4)
    for _ in range(2):
        page.say("act", action=1)
        page.say("step")
    page.say("rewind", steps=1)
    page.say("act", action=2)
    page.say("step")
    page.say("rewind", steps=1)
    page.say("save")
    page.say("reset")
    driver.turn()
    settled(driver)
    assert [played.fps for played in given] == [4, 4]
    assert [played.moment.number for played in given] == [1, 3]
    assert [[end.number for end in played.branches] for played in given] == [[2, 3], [2]]


def test_what_cannot_be_saved_is_tried_again(tmp_path: Path) -> None:
    save, full, messages = save_into(tmp_path), [True], list[dict[str, Any]]()

    def careful(played: Played) -> list[Path]:
        if full[0]:
            raise UserError("no space")
        return save(played)

    driver, _, _ = driven(tmp_path)
    saver, session = Saver(careful, messages.append), driver._session
    plays = [Played(session, session.step(action), "human") for action in (1, 2)]
    saver.save(plays[0])
    saver._thread.submit(int).result(20)
    assert messages == [{"kind": "notice", "text": "not saved: no space"}]
    with pytest.raises(UserError, match="not saved: no space"):
        Saver.close(saver)
    full[0], saver._thread = False, ThreadPoolExecutor(1)
    saver.save(plays[1])
    saver.close()
    assert [len(read_recording(file).steps) for file in saver.files] == [1, 2]


def test_a_recording_is_replayed_to_the_same_bytes_and_can_be_rewound(tmp_path: Path) -> None:
    first, page, _ = driven(tmp_path)
    for action in (1, 2, 0, 2):
        page.say("act", action=action)
        page.say("step")
    page.say("save")
    first.turn()
    recording = read_recording(settled(first)[0])
    driver, page, clock = driven(tmp_path, recording=recording, place=(0, 5))
    page.say("player", who="recording")
    page.say("run")
    for _ in range(2):
        clock.now += 0.1
        driver.turn()
    page.say("rewind", steps=1)
    page.say("run")
    for _ in range(4):
        clock.now += 0.1
        driver.turn()
    assert page.last("notice")["text"] == "counter: replayed to the same bytes"
    assert page.last("state")["over"] == "the recording ends after 4 steps"
    assert (page.last("frame")["step"], page.count) == (4, 7)
    page.say("player", who="human")
    page.say("step")
    driver.turn()
    assert page.last("frame")["step"] == 5
    driver, page, _ = driven(tmp_path)
    page.say("player", who="recording")
    driver.turn()
    assert "there is no recording" in page.last("notice")["text"]
    assert page.last("state")["player"] == "human"


def test_a_page_that_comes_back_gets_everything(tmp_path: Path) -> None:
    driver, page, _ = driven(tmp_path)
    page.say("act", action=2)
    page.say("step")
    page.say("run")
    driver.turn()
    page.read()
    driver.detach()
    assert driver.turn() is None
    again = Page(driver)
    driver.attach(again.box)
    driver.turn()
    assert [message["kind"] for message in again.read()] == ["welcome", "state", "tree", "frame"]
    assert (again.count, again.last("state")["running"], again.last("welcome")["session"]) == (4, False, "name")
    assert not page.read()
    welcome = again.last("welcome")
    assert welcome["keys"] == [["0", []], ["1", ["Digit1"]], ["2", ["Digit2"]]]
    assert len(json.dumps(welcome)) < 64_000
    again.say("starts", first=1)
    driver.turn()
    assert [start["place"] for start in again.last("thumbnails")["starts"]] == [[0, 5], [1, 3]]
    assert decoded(again.pictures)[0, 0, 0] == 4


def test_a_step_that_fails_pauses_and_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver, page, _ = driven(tmp_path)
    page.say("act", action=7)
    page.say("run")
    driver.turn()
    assert "action 7: expected one of" in page.last("notice")["text"]
    assert page.last("state")["running"] is False
    driver._session.step = lambda action: 1 / 0  # type: ignore[method-assign,return-value]
    page.say("step")
    driver.turn()
    assert "ZeroDivisionError" in page.last("notice")["text"]
    assert "ZeroDivisionError" in caplog.text


def test_the_thread_plays_and_stops(tmp_path: Path) -> None:
    seen = threading.Event()
    driver = Driver(opened_of(), PlayOptions(fps=100.0), save_into(tmp_path))
    page = Page(driver, Outbox(seen.set))
    thread = threading.Thread(target=driver.run)
    thread.start()
    driver.attach(page.box)
    page.say("run")
    while max((message["step"] for message in page.got if message["kind"] == "frame"), default=0) < 5:
        assert seen.wait(20)
        seen.clear()
        page.read()
    driver.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert len(settled(driver)) == 1


def test_keys_of_a_lost_page_are_not_stuck(tmp_path: Path) -> None:
    driver, page, _ = driven(tmp_path)
    page.say("keys", held=["Digit2"], at=1)
    driver.detach()
    driver.attach(page.box)
    page.say("step")
    driver.turn()
    assert page.last("frame")["action"] == 0


def test_the_rate_is_that_of_the_present_run(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path)
    page.say("step")
    driver.turn()
    clock.now += 60
    page.say("run")
    for _ in range(3):
        driver.turn()
        clock.now += 0.1
    assert page.last("frame")["fps"] == pytest.approx(10)


def test_pressed_keys_keep_their_order() -> None:
    held = Held()
    held.change(m.Keys(["KeyW"], 1.0, [2, 1]))
    held.change(m.Keys(["KeyW", "Space"], 2.0, [1, 0]))
    held.change(m.Keys(["Space"], 3.0))
    held.change(m.Keys(["Space", "KeyW"], 4.0))
    assert held.take() == (["Space", "KeyW"], (3, 1), 4.0)
    held.change(m.Keys([], 5.0))
    assert held.take() == (["Space", "KeyW"], (0, 0), 5.0)
    assert held.take() == ([], (0, 0), None)


def test_latency_is_from_the_key_to_the_picture_that_shows_its_answer() -> None:
    latency = Latency()
    assert latency.percentiles is None
    for number in range(1, 101):
        latency.answered(number, 1000.0 * number)
        latency.shown(number, 1000.0 * number + number)
    assert latency.percentiles == (51.0, 95.0)
    latency.answered(101, 0.0)
    latency.shown(100, 5.0)  # an older picture
    assert latency.percentiles == (51.0, 95.0)


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
def test_pictures_are_lossless_but_for_jpeg(form: str) -> None:
    frame = np.random.default_rng(0).integers(256, size=(3, 64, 48), dtype=np.uint8)
    again = decoded(encoded(frame, form))
    assert again.shape == frame.shape
    assert np.array_equal(again, frame) == (form != "jpeg")


def test_a_model_is_warmed_up_without_a_session() -> None:
    lane = counter()
    warm_up(opened_of(lambda: lane), PlayOptions())
    assert lane.dynamics.world(None).calls == 2
