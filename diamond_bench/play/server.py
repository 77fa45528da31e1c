"""The server of `diamond-bench play`: one page, and behind a WebSocket one driver per tab. The only file that needs aiohttp."""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import secrets
import signal
import socket
import threading
import time
import webbrowser
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from errno import EADDRINUSE
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientConnectionResetError, WSCloseCode, WSMsgType, web

from diamond_bench.errors import UserError
from diamond_bench.play import messages as m
from diamond_bench.play.driver import Driver, warm_up
from diamond_bench.play.opened import Opened
from diamond_bench.play.options import LOOPBACK, PlayOptions
from diamond_bench.play.outbox import Outbox
from diamond_bench.play.recording import Recording
from diamond_bench.play.saver import Played, Save
from diamond_bench.play.saving import save_session
from diamond_bench.terminal import has_display

PAGE = Path(__file__).parent / "page"
MOST_TABS = 4
_HELLO_SECONDS = 10.0
_PING_SECONDS = 20.0
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end the server: Ctrl-C, a cluster's limit, and a connection that is lost."""
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that stand for all of a machine's, and the one at which this machine reaches itself."""


@dataclass(eq=False)
class _Tab:
    """A session, with its page if there is one."""

    driver: Driver
    thread: threading.Thread
    page: web.WebSocketResponse | None = None
    left: float = 0.0
    """When its page went."""


@dataclass
class _Allowance:
    """How much a page may still send."""

    tokens: float = m.BURST
    at: float = field(default_factory=time.monotonic)
    malformed: deque[float] = field(default_factory=lambda: deque(maxlen=m.MALFORMED))

    def take(self) -> bool:
        """Whether one more message is within the rate."""
        now = time.monotonic()
        self.tokens, self.at = min(m.BURST, self.tokens + (now - self.at) * m.RATE), now
        enough = self.tokens >= 1
        self.tokens -= enough
        return enough

    def fault(self) -> bool:
        """Notes a malformed message. Whether it was one too many."""
        self.malformed.append(time.monotonic())
        return len(self.malformed) == m.MALFORMED and self.malformed[-1] - self.malformed[0] < m.WITHIN


class Server:
    """The sessions of one command and the requests of their pages. `app` is the aiohttp application."""

    def __init__(
        self,
        opened: Opened,
        options: PlayOptions,
        save: Save,
        page: Path,
        recording: Recording | None = None,
        left_seconds: float = m.LEFT,
    ) -> None:
        """`page`: the folder of the page's files. `left_seconds`: after which a session without a page is saved and closed."""
        self.token = secrets.token_urlsafe(24)
        self.ticket = secrets.token_urlsafe(24)
        """Opens the page once. The browser is started with it, since all users of a machine see the arguments of all processes."""
        self.files: list[Path] = []
        """All that was saved by sessions that are closed."""
        self.failures: list[str] = []
        """Why something could not be saved."""
        self._cookie = f"play-{sha256(self.token.encode()).hexdigest()[:8]}"
        self._new_driver = partial(Driver, opened, options, save, recording, computing=threading.Lock())
        self._host, self._left_seconds = options.host, left_seconds
        self._pages = {f"/{file.name}": (file.read_bytes(), _TYPES[file.suffix]) for file in page.iterdir() if file.suffix in _TYPES}
        self._pages["/"] = self._pages.pop("/index.html")
        self._tabs: dict[str, _Tab] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.app = web.Application()
        self.app.add_routes([web.get("/ws", self._play, allow_head=False), web.get("/{name:.*}", self._file)])
        self.app.on_response_prepare.append(_add_headers)
        self.app.on_shutdown.append(self._close)

    def _refuse(self, request: web.Request, origin: bool = False) -> None:
        """Raises a 403 for a request that is not from the page of this server."""
        host = request.headers.get("Host", "")
        if not self._is_ours(host):
            raise web.HTTPForbidden(text="This server does not answer under this name. Open the address that diamond-bench play printed.")
        if origin and request.headers.get("Origin") not in (f"http://{host}", f"https://{host}"):
            raise web.HTTPForbidden(text="Only the page of this server may connect.")
        given = request.query.get("token", request.cookies.get(self._cookie, "")).encode(errors="replace")
        if hmac.compare_digest(given, self.token.encode()):
            return
        if origin or not hmac.compare_digest(given, self.ticket.encode()):
            raise web.HTTPForbidden(text="Open the whole address that diamond-bench play printed. It ends in a token.")
        self.ticket = secrets.token_urlsafe(24)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server. Other names would let pages of other sites in, by rebinding theirs to its address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in LOOPBACK or name == self._host.lower():
            return True
        return self._host in _ANY and (_is_address(name) or name == socket.gethostname().lower())

    async def _file(self, request: web.Request) -> web.Response:
        self._refuse(request)
        found = self._pages.get(request.path)
        if found is None:
            raise web.HTTPNotFound(text="There is no such file.")
        response = web.Response(body=found[0], content_type=found[1], charset="utf-8")
        if "token" in request.query:
            response.set_cookie(self._cookie, self.token, httponly=True, samesite="Strict")
        return response

    async def _play(self, request: web.Request) -> web.WebSocketResponse:
        self._refuse(request, origin=True)
        page = web.WebSocketResponse(timeout=2.0, heartbeat=_PING_SECONDS, max_msg_size=m.MAX_TEXT, compress=False)
        await page.prepare(request)
        hello = await _hello(page)
        tab = None if hello is None else await self._tab(hello, page)
        if tab is None:
            await page.close(code=WSCloseCode.POLICY_VIOLATION)  # unless it is closed for another reason
            return page
        loop, bell = asyncio.get_running_loop(), asyncio.Event()

        def ring() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the page
                loop.call_soon_threadsafe(bell.set)

        box = Outbox(ring)
        tab.driver.attach(box)
        sender = asyncio.create_task(_send(page, box, bell))
        try:
            await _receive(page, box, tab.driver)
        finally:
            sender.cancel()
            if tab.page is page:
                tab.page, tab.left = None, time.monotonic()
                tab.driver.detach()
                loop.call_later(self._left_seconds, self._expire, tab, tab.left)
        return page

    async def _tab(self, hello: m.Hello, page: web.WebSocketResponse) -> _Tab | None:
        """The session that a page continues or begins. None, and the page is closed, if there cannot be another one."""
        async with self._opening:
            known = self._tabs.get(hello.session or "")
            if known is not None:
                before, known.page = known.page, page
                if before is not None:
                    self._begin(_closed(before, m.TAKEN))
                return known
            if len(self._tabs) >= MOST_TABS:
                without = [tab for tab in self._tabs.values() if tab.page is None]
                if not without:
                    await _tell(page, f"{MOST_TABS} tabs play already; close one of them and reload this page")
                    await page.close(code=WSCloseCode.TRY_AGAIN_LATER)
                    return None
                await self._leave(min(without, key=lambda tab: tab.left))
            name = secrets.token_urlsafe(12)
            try:
                driver = await asyncio.get_running_loop().run_in_executor(None, partial(self._new_driver, name=name))
            except UserError as error:
                await _tell(page, str(error))
                return None
            tab = self._tabs[name] = _Tab(driver, threading.Thread(target=driver.run, name=f"play {name}", daemon=True), page)
            tab.thread.start()
            return tab

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # or it could be collected before it is done
        task.add_done_callback(self._tasks.discard)

    def _expire(self, tab: _Tab, left: float) -> None:
        """Closes a session whose page went then and did not come back."""
        if tab.page is None and tab.left == left:
            self._begin(self._leave(tab))

    async def _leave(self, tab: _Tab) -> None:
        """Saves and closes a session."""
        if self._tabs.pop(tab.driver.name, None) is None:
            return
        if tab.page is not None:  # it came back in this moment, and has to begin again
            await _closed(tab.page, WSCloseCode.SERVICE_RESTART)
        tab.driver.stop()

        def end() -> None:
            tab.thread.join()
            tab.driver.saver.close()

        try:
            await asyncio.get_running_loop().run_in_executor(None, end)
        except UserError as error:
            self.failures.append(str(error))
        self.files += tab.driver.saver.files

    async def _close(self, app: web.Application) -> None:
        tabs = list(self._tabs.values())
        await asyncio.gather(*(_closed(tab.page, WSCloseCode.GOING_AWAY) for tab in tabs if tab.page is not None))
        await asyncio.gather(*(self._leave(tab) for tab in tabs), *self._tasks)


def serve(opened: Opened, recording: Recording | None, options: PlayOptions, say: Callable[[str], None] = print) -> None:
    """Serves the page until Ctrl-C. Then saves what was played.

    `recording` is what the player `recording` replays. `say` prints one line. Raises UserError if the address is taken or is not one of
    this machine, if what was opened cannot be played, and in the end if something could not be saved.
    """

    def save(played: Played) -> list[Path]:
        return [save_session(played, options.out, opened.game)]

    with _listening(options.host, options.port) as listening:
        warm_up(opened, options)
        server = asyncio.run(_serve(partial(Server, opened, options, save, PAGE, recording), listening, options, say))
    for file in server.files:
        say(f"saved: {file}")
    if server.failures:
        raise UserError("; ".join(dict.fromkeys(server.failures)))


async def _serve(make: Callable[[], Server], listening: socket.socket, options: PlayOptions, say: Callable[[str], None]) -> Server:
    server, loop, stop = make(), asyncio.get_running_loop(), asyncio.Event()
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=3.0)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    for number in _ENDS:
        loop.add_signal_handler(number, stop.set)
    url = _url(_ANY.get(options.host, options.host), listening, server.token)
    say("Play at this address:")
    say(url)  # on a line of its own, so that a terminal does not break it
    once = url.replace(server.token, server.ticket)
    shown = options.browser and has_display() and await loop.run_in_executor(None, webbrowser.open, once)
    if options.host in _ANY:
        say("From another machine:")
        say(_url(socket.gethostname(), listening, server.token))
    elif options.host in LOOPBACK and not shown:
        place = urlsplit(url)
        say(f"From another machine: ssh -L {place.port}:{place.netloc} {socket.gethostname()}, then open this address there.")
    say("Ctrl-C saves and ends.")
    await stop.wait()
    for number in _ENDS:
        loop.remove_signal_handler(number)  # a second Ctrl-C ends at once
    say("Saving what was played.")
    await runner.cleanup()
    return server


def _url(host: str, listening: socket.socket, token: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/?token={token}"


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if that cannot be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == EADDRINUSE:
            raise UserError(f"--port {port}: this port is taken; name another one, or --port 0 for a free one") from None
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); try --host 127.0.0.1") from None


async def _hello(page: web.WebSocketResponse) -> m.Hello | None:
    """The first message. None if it is another one or does not come."""
    try:
        first = await page.receive(timeout=_HELLO_SECONDS)
        message = m.parse(first.data) if first.type is WSMsgType.TEXT else None
    except (TimeoutError, m.Malformed):
        return None
    return message if isinstance(message, m.Hello) else None


async def _receive(page: web.WebSocketResponse, box: Outbox, driver: Driver) -> None:
    """Hands a page's messages to its driver until the page goes or misbehaves."""
    allowance, noticed = _Allowance(), -m.WITHIN
    async for received in page:
        within = allowance.take()
        try:
            if received.type is not WSMsgType.TEXT:
                raise m.Malformed("expected text")
            message = m.parse(received.data)
            if isinstance(message, m.Hello):
                raise m.Malformed("hello: expected once")
        except m.Malformed as error:
            await _tell(page, f"a message that is not understood: {error}")
            if allowance.fault():
                await page.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many malformed messages")
            continue
        if isinstance(message, m.Ack):
            box.seen(message.number)
        if within or isinstance(message, (m.Ack, m.Keys)):
            driver.receive(message)
        elif time.monotonic() - noticed > m.WITHIN:
            noticed = time.monotonic()
            await _tell(page, f"more than {m.RATE:g} messages per second came, and some were not done")


async def _send(page: web.WebSocketResponse, box: Outbox, bell: asyncio.Event) -> None:
    """Sends what waits. While a slow page takes one frame, newer ones replace each other in the box."""
    with contextlib.suppress(ClientConnectionResetError):  # the page is gone, as its other side notices too
        while True:
            await bell.wait()
            bell.clear()
            for message in box.take():
                await (page.send_str(message) if isinstance(message, str) else page.send_bytes(message))


async def _tell(page: web.WebSocketResponse, sentence: str) -> None:
    with contextlib.suppress(ClientConnectionResetError):
        await page.send_str(json.dumps({"kind": "notice", "text": sentence}))


async def _closed(page: web.WebSocketResponse, code: int) -> None:
    await page.close(code=code)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
