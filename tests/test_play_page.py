"""The page of play in a real browser, Debian's chromium, against the real server: keys, time, settings, recordings and lost connections."""

import asyncio
import contextlib
import json
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_play_page_files import CODES, PAGE

from diamond_bench.config import OdeSampler
from diamond_bench.envs.games import spec
from diamond_bench.play import keys
from diamond_bench.play.form import settings_form
from diamond_bench.play.lanes import Lane, Real, Setting, Start
from diamond_bench.play.messages import packed, unpacked
from diamond_bench.play.opened import LaneFacts, Opened
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.recording import read_recording, replay, same_bytes
from diamond_bench.play.sources import trained, untrained
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.oracle import Oracle

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SLOW = 30_000
"""Milliseconds until a test gives up. This machine may be busy."""
WATCH_LINK = """() => {
  const link = document.querySelector('#link');
  const watch = (done) => new MutationObserver(() => link.hidden || done(true)).observe(link, { attributes: true });
  window.lost = new Promise(watch);
}"""
"""Notices that the page says for a moment that its connection is lost."""
SAMPLERS = ("euler", "heun", "dpm_solver_pp_2m")


playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
pytest.importorskip("aiohttp", reason="needs aiohttp, of the extra play")
if CHROMIUM is None:
    pytest.skip("needs Debian's package chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect  # noqa: E402
from test_html_report import contrast, luminance  # noqa: E402
from test_play_session import CALM, CPU, TURN, diamond  # noqa: E402
from test_worlds import Played, played  # noqa: E402

from diamond_bench.play.server import Server  # noqa: E402


@dataclass(frozen=True)
class Site:
    """A server in a thread."""

    server: Server
    loop: asyncio.AbstractEventLoop
    address: str
    saved: Path
    opened: Opened

    @property
    def url(self) -> str:
        return f"{self.address}/?token={self.server.token}"

    def drop(self) -> None:
        """Loses all connections, as a network does: without a word."""

        def abort() -> None:
            for tab in self.server._tabs.values():
                if tab.page is not None and tab.page._req is not None and tab.page._req.transport is not None:
                    tab.page._req.transport.abort()

        self.loop.call_soon_threadsafe(abort)


def lanes(play: Played) -> tuple[Lane, ...]:
    """A diffusion model, a world model that is perfect, and the real game."""
    model = trained(lambda milestone: diamond(), Setting(OdeSampler(num_steps=2, quantization="round")), OdeSampler())
    oracle = open_world(Oracle(), spec(TURN, CALM), CPU, play)
    return Lane("model", model, source="train_world_model/1"), Lane("oracle", untrained(oracle)), Lane("real game", Real(play))


def opened() -> Opened:
    play = played(TURN, CALM)
    facts = (
        LaneFacts("model", "train_world_model/1", samplers=SAMPLERS, watchable=True),
        LaneFacts("oracle", "oracle"),
        LaneFacts("real game", TURN, real=True, rewards=True, ends=True),
    )

    def start(place: tuple[int, int]) -> Start:
        number, last = place
        frames, actions = (torch.from_numpy(rows[number, last - 3 : last + 1].copy()) for rows in (play.frames, play.actions))
        return Start(frames, actions, torch.ones(4, dtype=torch.bool), place)

    places, notes = ((0, 3), (1, 5), (2, 8)), ("A <b>note</b>.",)
    return Opened(TURN, spec(TURN, CALM).actions, facts, lambda: lanes(play), places, start, notes, compared=0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from aiohttp import web
    from play_stand_ins import save_into

    folder, what, addresses = tmp_path_factory.mktemp("saved"), opened(), queue.Queue[tuple[Any, Any, str]]()
    server = Server(what, PlayOptions(fps=10.0), save_into(folder), page=PAGE)

    async def serve() -> None:
        runner, stop = web.AppRunner(server.app, shutdown_timeout=1.0), asyncio.Event()
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        addresses.put((asyncio.get_running_loop(), stop, f"http://127.0.0.1:{runner.addresses[0][1]}"))
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, stop, address = addresses.get(timeout=60)
    yield Site(server, loop, address, folder, what)
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SLOW)
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@dataclass
class Tab:
    """A page, the frames that it got, and its mistakes."""

    page: Page
    frames: list[dict[str, Any]]
    wrong: list[str]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def at(self, step: int) -> None:
        """Waits for the picture of a step."""
        expect(self.page.locator("#place")).to_have_text(re.compile(rf"^step {step}\b"))

    def is_(self, status: str) -> None:
        expect(self.page.locator("#status")).to_have_text(status)

    def settled(self) -> int:
        """Waits until no frame comes any more, since some may be under way when a pause begins. The step of the last one."""
        seen = 0
        for _ in range(40):
            if len(self.frames) == seen:
                break
            seen = len(self.frames)
            self.page.wait_for_timeout(300)
        assert len(self.frames) == seen
        return int(self.frames[-1]["step"])

    def picture(self, lane: int) -> list[int]:
        """The pixels of a lane's picture, as RGBA."""
        draw = "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        found: list[int] = self.page.locator(".picture canvas:not(.inset)").nth(lane).evaluate(draw)
        return found


@pytest.fixture(scope="module")
def visit(browser: Browser, site: Site) -> Callable[..., Any]:
    """Opens the page in a new tab of a window of its own, or of another tab's."""

    @contextlib.contextmanager
    def open_tab(other: Tab | None = None, **options: Any) -> Iterator[Tab]:
        context = other.page.context if other else browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        tab = Tab(page, [], [])

        def keep(payload: bytes | str) -> None:
            if isinstance(payload, bytes):
                header = unpacked(payload)[0]
                if header["kind"] == "frame":
                    tab.frames.append(header)

        page.on("websocket", lambda socket: socket.on("framereceived", keep))
        page.on("pageerror", lambda error: tab.wrong.append(str(error)))
        page.on("console", lambda message: tab.wrong.append(message.text) if message.type == "error" else None)
        try:
            page.goto(site.url)
            page.bring_to_front()  # a tab behind another one draws nothing
            expect(page.locator("#stage")).to_have_attribute("data-moment", "0")  # before that, keys do nothing
            yield tab
        finally:
            (page if other else context).close()
        assert not tab.wrong

    return open_tab


def test_keys_change_the_action_and_time_goes_both_ways(visit: Callable[..., Any]) -> None:
    """Pause, single steps, rewind, branches, and back to another branch with its pictures."""
    with visit() as tab:
        action, place, branch = (tab.page.locator(name) for name in ("#action", "#place", "#branch"))
        tab.is_("Paused")
        expect(tab.page.locator("#message")).to_contain_text("Press Play")
        for step, (key, name) in enumerate((("d", "RIGHT"), ("a", "LEFT"), ("ArrowRight", "RIGHT"), ("d", "RIGHT")), start=1):
            tab.page.keyboard.down(key)
            tab.press("e")
            tab.at(step)
            expect(action).to_have_text(name)
            tab.page.keyboard.up(key)
        tab.press("e")
        tab.at(5)
        expect(action).to_have_text("NOOP")
        expect(tab.page.locator("#message")).to_have_text("")
        first = tab.picture(0)

        tab.press(",", ",")
        tab.at(3)
        expect(place).to_have_text("step 3 of 5")
        tab.page.keyboard.down("a")
        tab.press("e")
        tab.at(4)
        tab.page.keyboard.up("a")
        expect(branch).to_have_text("branch 2 of 2")
        assert [frame["moment"] for frame in tab.frames] == [0, 1, 2, 3, 4, 5, 4, 3, 6]
        assert tab.frames[-1]["before"] == 3
        tab.press("PageUp")
        expect(branch).to_have_text("branch 1 of 2")
        tab.at(5)
        assert tab.picture(0) == first

        tab.page.locator("#timeline").fill("1")  # the slider
        tab.at(1)
        tab.press("End")
        tab.at(5)
        tab.press("Home")
        tab.at(0)
        tab.press("Enter")
        expect(branch).to_be_hidden()
        expect(place).to_have_text("step 0")

        tab.press(".")
        tab.is_("Playing")
        expect(place).to_have_text(re.compile(r"step [1-9]\d"))
        tab.press(".")
        tab.is_("Paused")
        last = tab.settled()
        tab.press("Backspace")
        tab.at(last - 10)  # one second of ten frames


def test_a_model_stays_in_step_with_the_real_game_and_the_number_of_steps_changes_live(visit: Callable[..., Any], site: Site) -> None:
    """100 frames: the perfect model shows what the game shows. The recording replays to the same bytes."""
    with visit() as tab:
        tab.page.locator("#fps").fill("120")
        tab.press("Enter")
        tab.press(".")
        detail = tab.page.locator(".picture .detail").first
        expect(detail).to_have_text("n 2 · euler")
        for step in range(24):
            key = "da"[step % 2]
            tab.page.keyboard.down(key)
            if step < 2:
                expect(tab.page.locator("#action")).to_have_text(("RIGHT", "LEFT")[step])
            tab.page.wait_for_timeout(30)
            tab.page.keyboard.up(key)
            if step == 8:
                tab.press("[")
                expect(detail).to_have_text("n 1 · euler")
        expect(tab.page.locator("#place")).to_have_text(re.compile(r"step [1-9]\d\d"), timeout=4 * SLOW)
        tab.press(".")
        tab.is_("Paused")
        last = tab.settled()
        drift = [frame["lanes"][1]["mse"] for frame in tab.frames]
        assert set(drift) == {0}
        assert any(frame["lanes"][0]["mse"] > 0 for frame in tab.frames)
        assert {frame["action"] for frame in tab.frames[1:]} == {0, 1, 2}
        tab.press("e")
        tab.at(last + 1)
        assert tab.picture(1) == tab.picture(2) != tab.picture(0)

        tab.page.locator("#save").click()
        saved = tab.page.locator("#saved code")
        expect(saved).to_have_count(1)
        recording = read_recording(Path(str(saved.text_content())))
    assert len(recording.steps) > 100
    assert [step.settings[0].sampler.num_steps for step in recording.steps[:: len(recording.steps) - 1]] == [2, 1]
    session = site.opened.session(recording.place, recording.seed)
    for _ in replay(session, recording):
        pass
    assert same_bytes(session, recording) == (True, True, True)


def test_a_lost_connection_comes_back_to_the_same_moment(visit: Callable[..., Any], site: Site) -> None:
    with visit() as tab:
        tab.press("e", "e", "e")
        tab.at(3)
        picture = tab.picture(0)
        tab.page.evaluate(WATCH_LINK)
        site.drop()
        assert tab.page.evaluate("() => window.lost")
        expect(tab.page.locator("#link")).to_be_hidden()
        tab.at(3)
        assert tab.picture(0) == picture
        tab.press("e")
        tab.at(4)
        tab.page.reload()
        tab.at(4)
        assert tab.frames[-1]["moment"] == 4


def test_two_tabs_play_for_themselves_and_a_wrong_token_is_refused(visit: Callable[..., Any], site: Site) -> None:
    with visit() as first, visit(other=first) as second:
        second.press("e", "e")
        second.at(2)
        first.page.bring_to_front()
        first.press("e")
        first.at(1)
        second.at(2)
        assert "token" not in first.page.url  # it would stay in the browser's history
        stranger = first.page.context.browser.new_context()
        answer = stranger.new_page().goto(f"{site.address}/?token=wrong")
        assert answer is not None
        assert answer.status == 403
        stranger.close()


def test_settings_starts_players_and_the_film_strip(visit: Callable[..., Any]) -> None:
    with visit() as tab:
        page, detail = tab.page, tab.page.locator(".picture .detail").first
        page.locator("summary").click()
        page.locator("input[name=rho]").fill("5")
        tab.press("Enter")
        expect(detail).to_have_text("n 2 · euler · changed")
        page.locator("#setting-form select").first.select_option("heun")
        expect(detail).to_have_text("n 2 · heun · changed")
        expect(page.locator("input[name=rho]")).to_have_value("5")  # as sampler.name=heun keeps it
        page.locator("input[name=rho]").fill("7")
        tab.press("Enter")
        expect(detail).to_have_text("n 2 · heun")
        expect(page.locator("select[name=quantization]")).to_have_value("round")
        page.get_by_label("Steps, n").fill("3")
        tab.press("Enter", "e")
        expect(detail).to_have_text("n 3 · heun")
        tab.at(1)
        tab.press("n")
        expect(page.locator("#film figure")).to_have_count(5)  # Heun calls the network twice, but not in the last step
        tab.press("Escape")
        expect(page.locator("#strip")).to_be_hidden()
        page.get_by_label("Steps, n").fill("0")
        tab.press("Enter")
        expect(page.locator("#notices")).to_contain_text("Steps, n: Value must be greater than or equal to 1. The old value holds.")
        expect(page.get_by_label("Steps, n")).to_have_value("3")
        expect(detail).to_have_text("n 3 · heun")
        page.get_by_label("Horizon").fill("-1")
        tab.press("Enter")
        expect(page.locator("#notices")).to_contain_text("Horizon: Value must be greater than or equal to 0.")
        expect(page.get_by_label("Horizon")).to_have_value("0")

        expect(page.locator("#notes")).to_have_text("A <b>note</b>.")
        expect(page.get_by_label("policy", exact=True)).to_be_disabled()
        page.locator("#compare").select_option("1")
        expect(page.locator(".picture").nth(3)).to_contain_text("equal")
        page.locator("#open-starts").click()
        expect(page.locator("#thumbnails button")).to_have_count(3)
        page.locator("#thumbnails button").nth(2).click()
        expect(page.locator("#start-place")).to_have_text("recording 2, step 8")
        tab.at(0)
        tab.press("e")  # after a click, keys play again
        tab.at(1)
        tab.press("?")
        expect(page.locator("#help")).to_be_visible()
        assert page.locator("#page-keys kbd").count() == len(CODES) + 1
        tab.press("Escape")
        tab.press("e")
        tab.at(2)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(width: int, visit: Callable[..., Any]) -> None:
    look = """() => {
      const canvas = document.querySelector('.picture canvas:not(.inset)').getBoundingClientRect();
      const shown = [...document.querySelectorAll('body *')].filter((e) => e.offsetParent && e.textContent.trim() && !e.children.length);
      const style = getComputedStyle(document.body);
      const scroll = [document.documentElement, document.body, ...document.querySelectorAll('main > *:not(#stage), aside, aside *')];
      return {
        wide: scroll.filter((e) => e.clientWidth && e.tagName != 'SPAN' && e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML),
        scale: canvas.width * devicePixelRatio / 16,
        small: shown.filter((e) => parseFloat(getComputedStyle(e).fontSize) < 11.9).map((e) => e.textContent),
        ink: style.color, page: style.backgroundColor,
      };
    }"""
    ring = """() => {
      const stage = document.querySelector('#stage'), style = getComputedStyle(stage);
      const below = document.querySelector('#action').getBoundingClientRect().top - stage.getBoundingClientRect().bottom;
      return stage.matches(':focus-visible') ? below - parseFloat(style.outlineOffset) - parseFloat(style.outlineWidth) : NaN;
    }"""
    with visit(has_touch=width == 390) as tab:
        tab.page.set_viewport_size({"width": width, "height": 844})
        pad = tab.page.locator(".cross")
        if width == 390:
            pad.hover(position={"x": 20, "y": 75})
            tab.page.mouse.down()  # a finger on the left
            tab.press("e")
            tab.page.mouse.up()
        else:
            expect(pad).to_be_hidden()
            tab.press("e")
        expect(tab.page.locator("#action")).to_have_text("LEFT" if width == 390 else "NOOP")
        tab.at(1)
        for scheme, low, high in (("light", 0.8, 1.0), ("dark", 0.0, 0.05)):
            tab.page.emulate_media(color_scheme=scheme)
            seen = tab.page.evaluate(look)
            assert seen["wide"] == []
            assert seen["small"] == []
            assert seen["scale"] == int(seen["scale"]) > 8
            assert low <= luminance(seen["page"]) <= high
            assert contrast(seen["ink"], seen["page"]) > 7
        if width == 1280:  # the last input was a key, so the focus has a ring
            tab.page.focus("#stage")
            assert tab.page.evaluate(ring) >= 0, "the ring of the focus does not cover the line below the pictures"
        rewards = "async () => { const { signed } = await import('./dom.js'); return [-1e-4, -4e-4, 0, 0.126, -2, null].map(signed); }"
        assert tab.page.evaluate(rewards) == ["−0.0001", "−0.0004", "0", "+0.13", "−2", "–"]


class Mock:
    """A server inside the test, for games that would be slow to open: what it was sent, and one picture."""

    def __init__(self, page: Page, actions: ActionSpec, names: int, mouse: bool = False) -> None:
        self.got: list[dict[str, Any]] = []
        keymap = keys.key_map(actions)
        fact = {"real": False, "milestones": [], "samplers": [], "guidance": False, "watchable": False}
        lane = {**fact, "source": "x", "rewards": True, "ends": True, "policy": True, "setting": {"sampler": None, "milestone": None}}
        lanes = [{**lane, "name": f"variant {number}"} for number in range(names)]
        self.welcome = {
            "kind": "welcome", "session": "mock", "version": "1", "game": "Mock", "notes": [], "recording": None, "reference": None,
            "lanes": lanes, "starts": [[0, 0]], "form": settings_form(), "keys": keymap.table(), "game_keys": list(keymap.buttons),
            "actions": {"kind": actions.kind, "sizes": actions.sizes, "names": actions.names}, "mouse": mouse,
            "limits": {"max_fps": 120, "unseen": 2, "thumbnails": 48, "keys": 16, "horizon": 10, "seed": 10},
        }  # fmt: skip
        self.state = {
            "kind": "state", "player": "human", "lane": 0, "running": False, "fps": 15, "horizon": 0, "pictures": "png", "seed": 0,
            "start": 0, "settings": [lane["setting"]] * names, "compare": None, "over": None,
        }  # fmt: skip
        page.route_web_socket(re.compile("/ws$"), self.connected)

    def connected(self, socket: Any) -> None:
        self.socket = socket
        socket.on_message(self.message)

    def message(self, text: str) -> None:
        self.got.append(json.loads(text))
        if self.got[-1]["do"] == "hello":
            for message in (self.welcome, self.state, {"kind": "tree", "runs": [[0, None, 0, 1]], "now": 0}):
                self.socket.send(json.dumps(message))
            picture = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
            count = self.welcome["actions"]["sizes"][0]
            seen = {"reward": 0, "return": 0, "ended": False, "cut": False, "p_reward": [0, 0.5, 0.5], "p_end": 0.1, "lives": None}
            policy = {"policy": [1 / count] * count if count else None, "value": 1.5, "entropy": 1.0, "mse": None, "psnr": None}
            lanes = [{"bytes": len(picture), "low_bytes": None, **seen, **policy}] * len(self.welcome["lanes"])
            number = {"number": 1, "moment": 0, "before": None, "step": 0, "action": None, "keys_at": None, "dropped": 0}
            times = {"fps": None, "model_ms": 1.0, "encode_ms": 0.1, "latency_ms": None}
            self.socket.send(packed({"kind": "frame", **number, **times, "lanes": lanes, "difference": None}, [picture] * len(lanes)))

    def last(self, page: Page, do: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until the last message of a kind is as expected."""
        for _ in range(SLOW // 20):
            found = [message for message in self.got if message["do"] == do]
            if found and is_it(found[-1]):
                return found[-1]
            page.wait_for_timeout(20)
        raise AssertionError(self.got[-5:])


@pytest.fixture
def mocked(browser: Browser, site: Site) -> Iterator[Callable[..., tuple[Page, Mock]]]:
    """Opens the page with a server inside the test, and waits for its picture."""
    with contextlib.ExitStack() as stack:

        def open_page(actions: ActionSpec, names: int, mouse: bool = False, width: int = 1280) -> tuple[Page, Mock]:
            context = browser.new_context(viewport={"width": width, "height": 800}, has_touch=width < 1000)
            stack.callback(context.close)
            page = context.new_page()
            mock = Mock(page, actions, names, mouse)
            page.goto(site.url)
            mock.last(page, "ack", lambda ack: ack["number"] == 1)
            return page, mock

        yield open_page


def test_touch_has_eight_directions_and_all_variants_fit(mocked: Callable[..., tuple[Page, Mock]]) -> None:
    page, mock = mocked(spec("Boxing", CALM).actions, names=6, width=390)
    expect(page.locator("#stage .picture")).to_have_count(6)
    expect(page.locator(".plot.long tr")).to_have_count(18)
    page.locator(".cross").scroll_into_view_if_needed()
    box = page.locator(".cross").bounding_box()
    assert box is not None
    right_up = box["x"] + 0.85 * box["width"], box["y"] + 0.15 * box["height"]
    page.mouse.move(*right_up)
    page.mouse.down()
    mock.last(page, "keys", lambda keys: set(keys["held"]) == {"KeyW", "KeyD"})
    page.mouse.move(right_up[0], box["y"] + box["height"] / 2)
    mock.last(page, "keys", lambda keys: keys["held"] == ["KeyD"])
    page.mouse.up()
    mock.last(page, "keys", lambda keys: keys["held"] == [])
    page.set_viewport_size({"width": 1280, "height": 800})
    for picture in page.locator(".picture canvas:not(.inset)").all():
        expect(picture).to_have_css("width", "192px")  # two rows of three
    picture = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    starts = [{"place": [0, step], "bytes": len(picture)} for step in (3, 9)]
    for _ in range(2):  # a sheet that is opened twice asks twice
        mock.socket.send(packed({"kind": "thumbnails", "first": 0, "of": 2, "starts": starts}, [picture] * 2))
    page.wait_for_timeout(300)
    assert page.locator("#thumbnails button").count() == 2
    mock.state["over"] = "The model predicts the end."
    mock.socket.send(json.dumps(mock.state))
    expect(page.locator("#message")).to_have_text("The model predicts the end.")
    mock.socket.close(code=4001)
    expect(page.locator("#link")).to_contain_text("another tab")


def test_the_mouse_looks_around_and_keys_are_released_with_the_focus(mocked: Callable[..., tuple[Page, Mock]]) -> None:
    page, mock = mocked(ActionSpec.columns((2, 23, 15), ("fire", "mouse_x", "mouse_y")), names=1, mouse=True)
    buttons = page.locator(".others button").all_text_contents()
    assert buttons == ["fire", "mouse_x = -60", "mouse_x = 60", "mouse_y = -50", "mouse_y = 50"]
    page.keyboard.down("f")
    mock.last(page, "keys", lambda keys: keys["held"] == ["KeyF"])
    page.evaluate("() => dispatchEvent(new Event('blur'))")
    mock.last(page, "keys", lambda keys: keys["held"] == [])
    page.locator("#stage").click()
    for step in range(SLOW // 20):  # until the browser has locked the pointer
        page.mouse.move(400 + step % 100, 300)
        page.wait_for_timeout(20)
        if mock.got[-1]["do"] == "keys" and mock.got[-1]["motion"] != [0, 0]:
            break
    assert mock.got[-1]["motion"][0] != 0
    page.mouse.down()
    mock.last(page, "keys", lambda keys: keys["held"] == ["Mouse0"])
    page.mouse.up()
    mock.last(page, "keys", lambda keys: keys["held"] == [])
