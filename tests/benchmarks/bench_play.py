"""What the page of `diamond-bench play` costs next to the model, in seconds of one core: packing, sending, and the server.

    python tests/benchmarks/bench_play.py [sampler.num_steps=1 ...]

A model of scale smoke with fresh weights plays in a real server, and a page without a browser reads it in another process.
"""

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from diamond_bench.config import OdeSampler
from diamond_bench.envs.games import spec
from diamond_bench.play.lanes import Lane, Setting, Start
from diamond_bench.play.messages import unpacked
from diamond_bench.play.opened import LaneFacts, Opened
from diamond_bench.play.options import Place, PlayOptions
from diamond_bench.play.server import Server
from diamond_bench.play.session import Session
from diamond_bench.play.sources import trained
from diamond_bench.store.kinds import Profile
from diamond_bench.studies.single import plan_profile
from diamond_bench.worlds.diamond.world import build_world

STEPS = 200


def opened_of(overrides: list[str]) -> Opened:
    """One lane with a model of scale smoke. Its start is noise."""
    words = ["scale=smoke", "execution.device=cpu", *overrides]
    (planned,) = plan_profile(words, None, lambda device: (device, "")).jobs.values()
    profile: Profile = planned.config
    config = profile.training
    assert isinstance(config.sampler, OdeSampler)
    described = spec(config.game, config.env)
    world = build_world(config, described)
    first = Setting(config.sampler)
    lane = Lane("model", trained(lambda milestone: world, first, config.sampler))

    def start(place: Place) -> Start:
        frames = torch.randint(256, (4, 3, *described.frames.sides), dtype=torch.uint8)
        return Start(frames, torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool), place)

    return Opened(config.game, described.actions, (LaneFacts("model", ""),), lambda: (lane,), ((0, 0),), start)


async def read(url: str, steps: int) -> None:
    """A page: it acknowledges each frame, and presses or releases a key with every third."""
    async with ClientSession() as client, client.ws_connect(url, headers={"Origin": "http://" + url.split("/")[2]}) as socket:
        for message in ({"do": "hello"}, {"do": "horizon", "steps": steps}, {"do": "run"}):
            await socket.send_str(json.dumps(message))
        drawn = 0
        async for received in socket:
            if isinstance(received.data, bytes):
                header, _ = unpacked(received.data)
                drawn += 1
                now = time.perf_counter() * 1000
                await socket.send_str(json.dumps({"do": "ack", "number": header["number"], "shown": now}))
                if drawn % 3 == 0:
                    await socket.send_str(json.dumps({"do": "keys", "held": ["KeyD"] * (drawn % 2), "at": now}))
                if header["step"] == steps:
                    print(f"latency in ms (p50, p95): {header['latency_ms']}; pictures {drawn}; fps {header['fps']}")
                    return


def visit(url: str) -> None:
    """`read`, in a process of its own."""
    asyncio.run(read(url, STEPS))


async def main(overrides: list[str]) -> None:
    opened, spent = opened_of(overrides), [0.0]
    step = Session.step

    def timed(self: Session, action: object) -> object:
        began = time.thread_time()
        moment = step(self, action)  # type: ignore[arg-type]
        spent[0] += time.thread_time() - began
        return moment

    opened.session().step(0)
    Session.step = timed  # type: ignore[assignment,method-assign]
    page = Path(tempfile.mkdtemp())
    (page / "index.html").write_text("")
    server = Server(opened, PlayOptions(fps=60.0), lambda played: [], page)
    async with TestServer(server.app, host="127.0.0.1") as served:
        url = str(served.make_url(f"/ws?token={server.token}"))
        visitor = multiprocessing.get_context("spawn").Process(target=visit, args=(url,))
        visitor.start()
        while not server._tabs:
            await asyncio.sleep(0.01)
        began = time.process_time(), time.perf_counter()
        await asyncio.get_running_loop().run_in_executor(None, visitor.join)
        all_cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
        model = spent[0]
        print(f"per step, CPU: model {model / STEPS * 1e3:.2f} ms, all else {(all_cpu - model) / STEPS * 1e3:.2f} ms", end="")
        print(f" = {(all_cpu - model) / model:.1%} of the model; wall {wall / STEPS * 1e3:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
