"""The server of play over real sockets on the loopback address: who is let in, hostile messages, tabs, and lost connections."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, CookieJar, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer
from play_stand_ins import counter, counting_start, driven, opened_of, save_into

from diamond_bench.errors import UserError
from diamond_bench.play import messages as m
from diamond_bench.play import server as module
from diamond_bench.play.lanes import Start
from diamond_bench.play.messages import MESSAGES, Malformed, parse, unpacked
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.recording import read_recording
from diamond_bench.play.server import MOST_TABS, Server, serve

LONG = 20.0
"""Seconds until a test gives up. This machine may be busy."""


class Page:
    """A page without a browser."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.got: list[dict[str, Any]] = []
        self.code: int | None = None

    async def say(self, do: str, **values: Any) -> None:
        await self.socket.send_str(json.dumps({"do": do, **values}))

    async def next(self, ack: bool = True) -> dict[str, Any] | None:
        """The next message, or None at the end."""
        received = await asyncio.wait_for(self.socket.receive(), LONG)
        if received.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.code = received.data if received.type is WSMsgType.CLOSE else self.socket.close_code
            return None
        message = json.loads(received.data) if received.type is WSMsgType.TEXT else unpacked(received.data)[0]
        if message["kind"] == "frame" and ack:
            await self.say("ack", number=message["number"], shown=1.0)
        self.got.append(message)
        return message

    async def until(self, kind: str, is_it: Callable[[dict[str, Any]], bool] = lambda message: True, ack: bool = True) -> dict[str, Any]:
        while message := await self.next(ack):
            if message["kind"] == kind and is_it(message):
                return message
        raise AssertionError(f"closed with {self.code} before {kind}; the last were {self.got[-3:]}")

    async def end(self) -> int | None:
        """The code with which the server closes."""
        while await self.next(ack=False):
            pass
        return self.code


class Browser:
    """Clients of one server."""

    def __init__(self, server: Server, client: TestClient[Any, Any]) -> None:
        self.server, self.client = server, client
        self.origin = str(client.make_url("/")).rstrip("/")

    async def page(self, session: str | None = None, **headers: str) -> Page:
        url = f"/ws?token={self.server.token}"
        page = Page(await self.client.ws_connect(url, headers={"Origin": self.origin, **headers}))
        await page.say("hello", session=session)
        return page

    async def refused(self, path: str, **headers: str) -> int:
        with pytest.raises(WSServerHandshakeError) as refused:
            await self.client.ws_connect(path, headers={"Origin": self.origin, **headers})
        return refused.value.status


@contextlib.asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Browser]:
    page = folder / "page"
    page.mkdir(exist_ok=True)
    (page / "index.html").write_text("<!doctype html><title>Play</title>")
    (page / "play.js").write_text("// no code")
    (page / "secret.txt").write_text("not served")
    (folder / "saved").mkdir(exist_ok=True)
    server = Server(options.pop("opened", opened_of()), PlayOptions(fps=60.0), save_into(folder / "saved"), page=page, **options)
    client: TestClient[Any, Any] = TestClient(TestServer(server.app, host="127.0.0.1"), cookie_jar=CookieJar(unsafe=True))
    async with client:
        yield Browser(server, client)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 3 * LONG))


def test_only_who_has_the_token_gets_the_page(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as browser:
            get = browser.client.get
            for path in ("/", "/play.js", "/?token=", "/?token=wrong", "/?token=%ff"):
                assert (await get(path)).status == 403
            page = await get(f"/?token={browser.server.token}")
            assert (page.status, page.content_type) == (200, "text/html")
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
            assert page.headers["Cache-Control"] == "no-store"
            cookie = page.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert [(await get(path)).status for path in ("/", "/play.js")] == [200, 200]  # with the cookie
            ticket = browser.server.ticket
            browser.client.session.cookie_jar.clear()
            assert await browser.refused(f"/ws?token={ticket}") == 403
            assert (await get(f"/?token={ticket}")).status == 200
            assert (await get("/")).status == 200
            browser.client.session.cookie_jar.clear()
            assert (await get(f"/?token={ticket}")).status == 403  # it was used
            await get(f"/?token={browser.server.token}")
            for path in ("/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/play.js/", "/play.py"):
                assert (await get(path)).status == 404
            assert (await browser.client.post("/")).status == 405
            assert (await get("/", headers={"Host": "evil.example"})).status == 403

    run(test())


def test_only_the_page_of_this_server_may_connect(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as browser:
            right = f"/ws?token={browser.server.token}"
            assert await browser.refused("/ws") == 403
            assert await browser.refused("/ws?token=" + "x" * 32) == 403
            for origin in (
                "http://evil.example",
                "null",
                "",
                f"{browser.origin}.evil.example",
                browser.origin.replace("127.0.0.1", "localhost"),
            ):
                assert await browser.refused(right, Origin=origin) == 403
            for host in ("evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::1"):
                assert await browser.refused(right, Host=host, Origin=f"http://{host}") == 403
            for host in ("localhost:9000", "127.0.0.1", "[::1]:1"):  # through a tunnel
                page = await browser.page(Host=host, Origin=f"http://{host}")
                assert await page.until("welcome")

    run(test())


def test_an_address_for_all_networks_is_no_door_for_other_names(tmp_path: Path) -> None:
    server = Server(opened_of(), PlayOptions(host="0.0.0.0"), save_into(tmp_path), page=pages(tmp_path))
    assert all(server._is_ours(host) for host in ("10.0.0.7:80", f"{socket.gethostname()}:80", "[fe80::1]"))
    assert not any(server._is_ours(host) for host in ("evil.example", "10.0.0.7.evil.example", ""))
    assert not Server(opened_of(), PlayOptions(), save_into(tmp_path), page=pages(tmp_path))._is_ours("10.0.0.7")


@pytest.mark.parametrize(
    ("host", "address", "elsewhere"),
    [
        ("127.0.0.1", "127.0.0.1", "ssh -L {port}:127.0.0.1:{port} "),
        ("::1", "[::1]", "ssh -L {port}:[::1]:{port} "),
        ("0.0.0.0", "127.0.0.1", "http://{name}:{port}/?token="),
        ("::", "[::1]", "http://{name}:{port}/?token="),
    ],
)
def test_the_printed_addresses_lead_to_the_page(host: str, address: str, elsewhere: str, tmp_path: Path) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("needs IPv6")
    said: list[str] = []

    async def test() -> None:
        with module._listening(host, 0) as listening:
            new = partial(Server, opened_of(), PlayOptions(host=host), save_into(tmp_path), page=pages(tmp_path))
            serving = asyncio.create_task(module._serve(new, listening, PlayOptions(host=host, browser=False), said.append))
            while "Ctrl-C saves and ends." not in said:
                await asyncio.sleep(0.01)
            port = listening.getsockname()[1]
            assert said[1].startswith(f"http://{address}:{port}/?token=")
            async with ClientSession() as client, client.get(said[1]) as answer:
                assert answer.status == 200
            assert elsewhere.format(port=port, name=socket.gethostname()) in " ".join(said[2:])
            os.kill(os.getpid(), signal.SIGINT)
            await serving

    run(test())


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def pages(folder: Path) -> Path:
    (folder / "index.html").write_text("")
    return folder


def test_two_tabs_play_on_their_own_and_a_fifth_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as browser:
            one, two = await browser.page(), await browser.page()
            for page, action in ((one, 1), (two, 2)):
                await page.say("act", action=action)
                await page.say("step")
                await page.until("frame", lambda frame: frame["step"] == 1)
            assert (one.got[-1]["action"], two.got[-1]["action"]) == (1, 2)
            assert one.got[0]["session"] != two.got[0]["session"]
            others = [await browser.page() for _ in range(MOST_TABS - 2)]
            for page in others:
                await page.until("welcome")
            fifth = await browser.page()
            assert "tabs play already" in (await fifth.until("notice"))["text"]
            assert await fifth.end() == 1013
            await two.socket.close()
            again = await browser.page()
            assert (await again.until("welcome"))["session"] != two.got[0]["session"]
            assert len(list((tmp_path / "saved").iterdir())) == 1  # the tab that was left had to go, and was saved
            await one.say("step")
            await one.until("frame", lambda frame: frame["step"] == 2)

    run(test())


def test_a_session_goes_on_after_a_lost_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as browser:
            page = await browser.page()
            session = (await page.until("welcome"))["session"]
            await page.say("keys", held=["Digit1"], at=1.0)
            await page.say("run")
            moment = (await page.until("frame", lambda frame: frame["step"] >= 3))["moment"]
            page.socket._writer.transport.abort()  # type: ignore[union-attr]
            back = await browser.page(session)
            assert (await back.until("welcome"))["session"] == session
            assert (await back.until("state"))["running"] in (True, False)
            assert (await back.until("frame"))["moment"] >= moment
            taken = await browser.page(session)
            await taken.until("frame")
            assert await back.end() == m.TAKEN
            unknown = await browser.page("another")
            assert (await unknown.until("welcome"))["session"] not in (session, "another")

    run(test())


def test_a_session_without_a_page_is_saved_and_closed(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path, left_seconds=0.05) as browser:
            page = await browser.page()
            session = (await page.until("welcome"))["session"]
            await page.say("step")
            await page.until("frame", lambda frame: frame["step"] == 1)
            await page.socket.close()
            end = time.monotonic() + LONG
            while not browser.server.files:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
            assert len(read_recording(browser.server.files[0]).steps) == 1
            assert (await (await browser.page(session)).until("welcome"))["session"] != session

    run(test())


def test_a_page_that_reads_slowly_gets_the_newest_picture(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as browser:
            page = await browser.page()
            await page.until("frame")
            await page.say("run")
            first = await page.until("frame", ack=False)
            second = await page.until("frame", ack=False)
            assert 1 <= first["step"] < second["step"]
            (tab,) = browser.server._tabs.values()
            end = time.monotonic() + LONG
            while tab.driver._session.now.step < second["step"] + 10:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            await page.say("ack", number=second["number"], shown=1.0)
            newest = await page.until("frame", ack=False)
            assert newest["step"] >= second["step"] + 10
            assert newest["dropped"] >= 8

    run(test())


def junk(number: int, draw: random.Random) -> str | bytes:
    """Random bytes and texts, and messages with something changed."""
    kind = number % 4
    if kind == 0:
        return draw.randbytes(draw.randrange(60))
    if kind == 1:
        return "".join(chr(draw.choice((draw.randrange(32, 127), draw.randrange(0xD7FF)))) for _ in range(draw.randrange(60)))
    message = draw.choice(VALID)
    if kind == 2:
        cut = draw.randrange(len(message))
        return (
            message[:cut]
            + draw.choice(('"', "[", "]", "{", "-", "1e999", "NaN", "null", "\x00", "\ud7ff"))
            + message[cut + draw.randrange(3) :]
        )
    content = json.loads(message)
    key = draw.choice(list(content))
    content[draw.choice((key, "more"))] = draw.choice((None, -1, 2**63, 1e300, "x" * 30, [[]] * 20, {"a": {}}, True, "../../etc/passwd"))
    return json.dumps(content)


VALID = [
    *(json.dumps({"do": do}) for do in ("run", "step", "pause", "save", "starts", "reset")),
    '{"do": "keys", "held": ["Digit1", "Digit2"], "motion": [1, -2.5], "at": 12.5}',
    '{"do": "act", "action": 1}',
    '{"do": "player", "who": "policy", "lane": 0}',
    '{"do": "rewind", "steps": 3}',
    '{"do": "go", "moment": 2}',
    '{"do": "change", "lane": 0, "setting": {"sampler": {"name": "euler", "num_steps": 1}, "milestone": null}}',
    '{"do": "seed", "seed": 3}',
    '{"do": "fps", "fps": 60}',
    '{"do": "horizon", "steps": 0}',
    '{"do": "pictures", "format": "webp"}',
    '{"do": "compare", "lane": 0}',
    '{"do": "strip", "lane": 0}',
    '{"do": "ack", "number": 1, "shown": 2}',
]


def test_a_driver_survives_10000_junk_messages(tmp_path: Path) -> None:
    driver, page, clock = driven(tmp_path)
    draw, kinds = random.Random(1), Counter[type]()
    for number in range(10_000):
        data = junk(number, draw)
        try:
            message = parse(data if isinstance(data, str) else data.decode("latin1"))
        except Malformed:
            kinds[Malformed] += 1
        else:
            kinds[type(message)] += 1
            driver.receive(message)
        if number % 8 == 0:
            clock.now += 0.1
            driver.turn()
            page.box.take()
    assert kinds[Malformed] > 5000
    assert len(kinds) == 1 + len(MESSAGES) - 1  # all but hello, which the server keeps
    assert not any("inside diamond-bench" in message.get("text", "") for message in page.got)
    for do, values in (
        ("player", {"who": "human"}),
        ("horizon", {"steps": 0}),
        ("reset", {"start": 0}),
        ("act", {"action": 1}),
        ("step", {}),
    ):
        page.say(do, **values)
    driver.turn()
    page.box.seen(2**30)
    assert (page.last("frame")["step"], page.last("frame")["action"], page.count) == (1, 1, 3)


def is_after(step: int, frame: dict[str, Any]) -> bool:
    return bool(frame["step"] > step)


def test_a_session_survives_floods_while_another_plays_on(tmp_path: Path) -> None:
    """Malformed messages close a connection, so the junk comes in several connections of one session."""
    draw = random.Random(0)

    async def flood(browser: Browser, session: str) -> None:
        page = await browser.page(session)
        with contextlib.suppress(ConnectionError):
            for number in range(200):
                message = junk(number, draw)
                await (page.socket.send_bytes(message) if isinstance(message, bytes) else page.socket.send_str(message))
        assert await page.end() in (1008, 1006), page.got[-2:]

    async def test() -> None:
        async with served(tmp_path) as browser:
            victim, other = await browser.page(), await browser.page()
            session = (await victim.until("welcome"))["session"]
            await other.say("run")
            for _ in range(10):
                before = other.got[-1].get("step", 0) if other.got else 0
                await flood(browser, session)
                await other.until("frame", partial(is_after, before))
            assert await victim.end() == m.TAKEN
            back = await browser.page(session)
            assert (await back.until("welcome"))["session"] == session
            await back.say("player", who="human")
            await back.say("horizon", steps=0)
            await back.say("reset", start=0)
            await back.say("act", action=1)
            await back.say("step")
            assert (await back.until("frame", lambda frame: frame["step"] == 1))["action"] == 1

    run(test())


def test_other_faults_close_only_their_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as browser:
            page = await browser.page()
            await page.until("welcome")
            await page.socket.send_str('{"do": "run", "x": "' + "y" * 3000 + '"}')
            assert await page.end() == 1009
            page = Page(await browser.client.ws_connect(f"/ws?token={browser.server.token}", headers={"Origin": browser.origin}))
            await page.say("run")
            assert await page.end() == 1008
            page = await browser.page()
            for _ in range(m.MALFORMED):
                await page.say("hello")
            assert await page.end() == 1008
            assert sum("is not understood: hello" in message.get("text", "") for message in page.got) == m.MALFORMED
            page = await browser.page()
            for _ in range(2 * m.BURST):
                await page.say("fps", fps=30)
            assert "messages per second" in (await page.until("notice"))["text"]
            await page.say("keys", held=["Digit2"], at=1)
            await asyncio.sleep(0.1)
            await page.say("step")
            assert (await page.until("frame", lambda frame: frame["step"] == 1))["action"] == 2

    run(test())


def test_a_start_that_cannot_be_played_is_one_sentence(tmp_path: Path) -> None:
    def broken(place: tuple[int, int]) -> Start:
        raise UserError("episode 0 is damaged")

    async def test() -> None:
        async with served(tmp_path, opened=opened_of(start=broken)) as browser:
            page = await browser.page()
            assert (await page.until("notice"))["text"] == "episode 0 is damaged"
            assert await page.end() == 1008

    run(test())


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: this port is taken"):
            serve(opened_of(), None, PlayOptions(port=port, browser=False))
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid"):
        serve(opened_of(), None, PlayOptions(host="no.such.host.invalid", browser=False))


def test_ctrl_c_ends_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` in the main thread, as the command calls it, and a client in another thread."""
    monkeypatch.setattr(module, "PAGE", pages(tmp_path))
    said: list[str] = []
    ready = threading.Event()

    async def client() -> None:
        url = said[1]
        assert len(url) < 70
        port = url.split(":")[2].split("/")[0]
        import aiohttp

        async with aiohttp.ClientSession() as session:
            where = url.replace("/?", "/ws?").replace("http", "ws", 1)
            async with session.ws_connect(where, headers={"Origin": f"http://127.0.0.1:{port}"}) as connection:
                page = Page(connection)
                await page.say("hello")
                await page.say("step")
                await page.until("frame", lambda frame: frame["step"] == 1)
                os.kill(os.getpid(), signal.SIGINT)
                assert await page.end() == 1001

    def visit() -> None:
        assert ready.wait(LONG)
        try:
            asyncio.run(client())
        except BaseException as error:
            said.append(f"the client failed: {error!r}")
            os.kill(os.getpid(), signal.SIGINT)

    def say(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("http"):
            ready.set()

    visitor = threading.Thread(target=visit)
    visitor.start()
    serve(opened_of(counter, start=counting_start), None, PlayOptions(browser=False, out=tmp_path / "out"), say)
    visitor.join(LONG)
    assert said[-1].startswith("saved: "), said
    saved = Path(said[-1].removeprefix("saved: "))
    assert saved.parent == tmp_path / "out" / "counting"
    assert len(read_recording(saved / "actions.json").steps) == 1
    assert (saved / "play.mp4").exists()
