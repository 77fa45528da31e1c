"""A session that is played in time: one thread computes, reads the newest keys as late as possible, and shows the newest picture."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.play import messages as m
from diamond_bench.play.form import welcome
from diamond_bench.play.frames import Numbers, frame_message, strip_message, thumbnails_message
from diamond_bench.play.input import Held, Latency
from diamond_bench.play.keys import key_map
from diamond_bench.play.lanes import Setting
from diamond_bench.play.opened import Opened
from diamond_bench.play.options import Place, PlayOptions
from diamond_bench.play.outbox import Outbox
from diamond_bench.play.recording import Recording
from diamond_bench.play.replayed import Replayed
from diamond_bench.play.saver import Played, Save, Saver
from diamond_bench.play.session import Moment, Session
from diamond_bench.play.tree import Tree
from diamond_bench.typed import build, to_plain

_LOG = logging.getLogger(__name__)
_MOST_REQUESTS = 256
"""Messages that wait while a step is computed."""


class Driver:
    """Plays one session for one page.

    `receive`, `attach`, `detach` and `stop` may be called in any thread. `run` is the thread that computes, and `turn` is one round of it.
    """

    def __init__(
        self,
        opened: Opened,
        options: PlayOptions,
        save: Save,
        recording: Recording | None = None,
        name: str = "",
        computing: "threading.Lock | None" = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begins, paused.

        Args:
            opened: what is played.
            options: with which it begins.
            save: called in another thread on request, and before a session is left.
            recording: the actions that the player `recording` takes. None takes those of the start, if it has some.
            name: the id of the session.
            computing: held during each step. Drivers that share models share it.
            clock: seconds.

        Raises UserError where a lane cannot begin, or the recording does not fit.
        """
        self._opened, self._options, self._clock = opened, options, clock
        self._replayed = Replayed(recording, options.as_recorded, opened.recordings)
        self.name = name
        self.saver = Saver(save, self._answer)
        self._computing = computing or threading.Lock()
        self._keys, self._held, self._latency = key_map(opened.actions), Held(), Latency()
        self._lock, self._bell, self._stopped = threading.Lock(), threading.Event(), False
        self._requests: deque[m.Message | Outbox | None] = deque()
        self._page: Outbox | None = None
        self._sent_state: dict[str, Any] | None = None
        self._number = 0
        self._times: deque[float] = deque(maxlen=31)
        """When the last steps of this run were played."""
        self._fps_of_run: float | None = None
        """The true rate at the end of the last run."""
        self._running, self._due = False, 0.0
        self._fps, self._horizon, self._pictures = options.fps, options.horizon, options.pictures
        self._player, self._lane = options.player, 0
        self._once: Any = None
        """An action for the next step."""
        self._compared = opened.compared
        with self._computing:
            self._lanes = opened.lanes()
        self._begin(options.place or opened.starts[0], options.seed, [lane.dynamics.first for lane in self._lanes])
        if self._player != "human":
            watched = next((number for number, lane in enumerate(opened.facts) if lane.policy), 0)
            self._change_player(m.Play(self._player, watched))

    # In any thread

    def receive(self, message: m.Message) -> None:
        """Takes a message of the page. Keys count from the next step on. Other messages are done in their order."""
        if isinstance(message, m.Keys):
            self._held.change(message)
            return
        if isinstance(message, m.Ack):
            self._latency.shown(message.number, message.shown)
            return
        if len(self._requests) >= _MOST_REQUESTS:
            self._notice("too many messages wait for the present step, and one was not done")
        else:
            self._request(message)

    def attach(self, page: Outbox) -> None:
        """Sends all that a page needs, and from then on what happens, to this page instead of an earlier one."""
        self._held.release()
        self._request(page)

    def detach(self) -> None:
        """Pauses, without a page."""
        self._held.release()
        self._request(None)

    def _request(self, request: "m.Message | Outbox | None") -> None:
        with self._lock:
            if isinstance(request, m.Go) and self._requests and isinstance(self._requests[-1], m.Go):
                self._requests.pop()  # a slider sends many, and the newest counts
            self._requests.append(request)
        self._bell.set()

    def stop(self) -> None:
        """Lets `run` return."""
        self._stopped = True
        self._bell.set()

    def run(self) -> None:
        """Plays until `stop`. Then begins to save what was played: see `Saver.close`."""
        while not self._stopped:
            self._bell.wait(self.turn())
            self._bell.clear()
        self._leave()

    # In the thread that computes

    def turn(self) -> float | None:
        """Does what is due now. Returns the seconds until the next step is due, or None: until something arrives."""
        while self._requests and not self._stopped:
            with self._lock:
                request = self._requests.popleft()
            self._attempt(lambda request=request: self._do(request))  # type: ignore[misc]
            self._state()
        if self._running and self._clock() >= self._due:
            if not self._attempt(self._step):
                self._pause()
                self._state()
            self._due = max(self._due + 1 / self._fps, self._clock())  # a late step delays the next ones, and none is skipped
        return max(0.0, self._due - self._clock()) if self._running else None

    def _attempt(self, act: Callable[[], None]) -> bool:
        """Whether it succeeded. If not, the page gets the reason."""
        try:
            act()
        except UserError as error:
            self._notice(str(error))
        except Exception as error:  # one failed step must not end a session that is not saved yet
            _LOG.exception("the session %s", self.name)
            self._notice(f"an error inside diamond-bench ({type(error).__name__}: {error}); the terminal shows more")
        else:
            return True
        return False

    def _do(self, request: "m.Message | Outbox | None") -> None:
        match request:
            case None:
                self._pause()
                self._page = None
            case Outbox():
                self._page, self._sent_state = request, None
                self._answer(welcome(self.name, self._opened, self._lanes, self._keys, self._replayed.recording))
                self._state()
                self._show(tree=True)
            case m.Run():
                self._check_limit()
                if not self._running:
                    self._pause()
                    self._held.forget()
                    self._running, self._due = True, self._clock()
            case m.Pause():
                self._pause()
            case m.Step():
                self._pause()
                self._held.forget()
                self._step()
            case m.Act():
                self._once = request.action
            case m.Play():
                self._change_player(request)
            case m.Rewind() | m.Go():
                self._pause()
                self._session.rewind(request.steps) if isinstance(request, m.Rewind) else self._session.go(request.moment)
                self._show()
            case m.Change():
                setting = build(Setting, request.setting, "setting")
                with self._computing:
                    self._session.change(self._known(request.lane), setting)
            case m.Seed():
                self._session.seed = request.seed
            case m.Fps():
                self._fps = request.fps
            case m.Horizon():
                self._horizon = request.steps
            case m.Format():
                self._pictures = request.format
                self._show()
            case m.Compare():
                self._compare(request.lane)
            case m.Reset():
                self._reset(request)
            case m.Starts():
                self._thumbnails(request.first)
            case m.Strip():
                self._pause()
                with self._computing:
                    strip = strip_message(self._session, self._known(request.lane), self._pictures)
                self._answer(strip)
            case m.Save():
                self._save(self._session.now)

    def _step(self) -> None:
        self._check_limit()
        with self._computing:
            action, keys_at = self._action()
            before, moment = self._session.now, self._session.step(action)
        self._times.append(self._clock())
        branched = self._tree.add(moment)
        self._show(branched, keys_at)
        if self._limit() is not None or (self._tree.over(moment) and not self._tree.over(before)):
            self._pause()
            verdict = self._replayed.verdict(self._session) if self._player == "recording" else None
            if verdict is not None:
                self._notice(verdict)
        if self._player == "recording" or not self._running:
            self._state()

    def _action(self) -> tuple[Any, float | None]:
        """The action of who plays, and the time of the keys that it answers."""
        session = self._session
        if self._player == "recording":
            return self._replayed.action(session), None
        if self._player == "policy":
            return session.policy_action(self._lane), None
        if self._once is not None:
            once, self._once = self._once, None
            return once, None
        held, motion, at = self._held.take()
        return self._keys.action(held, motion), at

    def _limit(self) -> str | None:
        """Why no step may follow. None if one may."""
        if self._horizon and self._session.now.step >= self._horizon:
            return f"the horizon of {self._horizon:,} steps is reached"
        return self._replayed.over(self._session) if self._player == "recording" else None

    def _check_limit(self) -> None:
        limit = self._limit()
        if limit is not None:
            raise UserError(f"{limit}; rewind, reset, or change who plays or the horizon")

    def _pause(self) -> None:
        self._running = False
        self._times.clear()

    def _known(self, lane: int) -> int:
        if lane >= len(self._lanes):
            raise UserError(f"lane {lane}: there are the lanes 0 to {len(self._lanes) - 1}")
        return lane

    def _change_player(self, request: m.Play) -> None:
        if request.who == "policy":
            self._session.policy_action(self._known(request.lane))
        if request.who == "recording":
            self._begin_again(*self._replayed.begin(self._session, self._seed))
        self._player, self._lane, self._once = request.who, request.lane, None
        self._held.forget()  # what was pressed while somebody else played

    def _compare(self, lane: int | None) -> None:
        if lane is None:
            self._compared = None
        elif self._opened.reference is None:
            raise UserError("there is no real game to compare with")
        elif self._known(lane) == self._opened.reference:
            raise UserError(f"{self._lanes[lane].name}: expected another lane, since this is the one that the others are compared with")
        else:
            self._compared = lane
        self._show()

    def _reset(self, request: m.Reset) -> None:
        starts = self._opened.starts
        if request.start is not None and request.start >= len(starts):
            raise UserError(f"start {request.start}: there are the starts 0 to {len(starts) - 1}")
        place = self._session.start.place if request.start is None else starts[request.start]
        self._begin_again(place, self._seed if request.seed is None else request.seed)

    def _begin_again(self, place: Place, seed: int) -> None:
        """Saves the session, and begins another one with its settings."""
        self._leave()
        self._begin(place, seed, self._session.settings)

    def _begin(self, place: Place, seed: int, settings: Sequence[Setting]) -> None:
        with self._computing:
            session = Session(self._lanes, self._opened.start(place), seed, self._options.threads)
            session.change_all(settings)
        self._session, self._seed, self._tree, self._once = session, seed, Tree(session.now), None
        self._replayed.begun(place)
        self._show(tree=True)

    def _leave(self) -> None:
        """Saves the path to the newest moment and all other branches, if something was played that was not saved."""
        newest = self._session.moments[-1]
        if newest.step:
            self._save(newest, again=False)

    def _save(self, moment: Moment, again: bool = True) -> None:
        if moment.step == 0:
            raise UserError("nothing was played yet, so there is nothing to save")
        session, seconds = self._session, [each.seconds for each in moment.path[1:]]
        measured = {
            "latency_ms": self._latency.percentiles,
            "fps": self._fps_of_run,
            "model_ms": round(1000 * sum(seconds) / len(seconds), 3),
        }
        branches = tuple(end for end in session.ends if end is not moment)
        self.saver.save(Played(session, moment, self._player, self._fps, measured, branches), again)

    def _thumbnails(self, first: int) -> None:
        starts = self._opened.starts
        places = starts[first : first + m.THUMBNAILS]
        if not places:
            raise UserError(f"start {first}: there are the starts 0 to {len(starts) - 1}")
        frames = [(place, self._opened.thumbnail(place)) for place in places]
        self._answer(thumbnails_message(first, len(starts), frames, self._pictures))

    # To the page

    def _show(self, tree: bool = False, keys_at: float | None = None) -> None:
        """Shows the present moment. `tree`: after the message `tree`."""
        if self._page is None:
            return
        self._number += 1
        if keys_at is not None:
            self._latency.answered(self._number, keys_at)
        now, times = self._session.now, self._times
        fps = round((len(times) - 1) / (times[-1] - times[0]), 2) if len(times) > 1 and times[-1] > times[0] else None
        self._fps_of_run = fps or self._fps_of_run
        numbers = Numbers(self._number, keys_at, fps, self._latency.percentiles, self._page.dropped)
        tallies, reference = self._tree.tallies(now), self._opened.reference
        frame = frame_message(self._session, tallies, numbers, reference, self._compared, self._pictures)
        self._page.show(self._number, frame, json.dumps(self._tree.message(now)) if tree else None)

    def _state(self) -> None:
        """Sends the state, unless the page has it."""
        session, starts = self._session, self._opened.starts
        over = self._limit() or ("the game is over" if self._tree.over(session.now) else None)
        state = {
            "kind": "state",
            "player": self._player,
            "lane": self._lane,
            "running": self._running,
            "fps": self._fps,
            "horizon": self._horizon,
            "pictures": self._pictures,
            "seed": session.seed,
            "start": starts.index(session.start.place) if session.start.place in starts else None,
            "settings": [to_plain(setting) for setting in session.settings],
            "compare": self._compared,
            "over": over,
        }
        if state != self._sent_state:
            self._sent_state = state
            self._answer(state)

    def _notice(self, sentence: str) -> None:
        self._answer({"kind": "notice", "text": sentence})

    def _answer(self, message: dict[str, Any] | bytes) -> None:
        if self._page is not None:
            self._page.answer(message if isinstance(message, bytes) else json.dumps(message))


def warm_up(opened: Opened, options: PlayOptions) -> None:
    """Plays two steps that nobody sees, since the first steps of a model are slow. Raises UserError where a lane cannot begin."""
    session = opened.session(options.place, options.seed, options.threads)
    for _ in range(2):
        session.step(key_map(opened.actions).action(()))
