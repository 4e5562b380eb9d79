"""How long readers wait for each other: so many at once click patches, move the layer and ask new questions.

Each reader is a connection to the app as a browser makes it, without the browser, whose work would fall on the same cores.
A question is over when its picture is drawn, and the reader goes on while the model answers; any other step is over when all
that was asked for is drawn. What else they wait for is what other readers asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from lens.gallery import gallery
from lens.home import project_root

OBJECTS = ("cat", "dog", "cup", "rocket", "window", "tree", "face", "road", "sky", "hand")
THINK = (1.0, 5.0)
"""Seconds that a reader looks at what they see."""


@contextmanager
def serving() -> Iterator[int]:
    """The app on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.headless",
        "true",
        "--server.port",
        str(port),
    ]
    process = subprocess.Popen(command, cwd=project_root(), env=dict(os.environ), stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class Reader:
    """One connection: the widgets that the page drew, and the seconds that each kind of step took."""

    port: int
    rng: random.Random
    took: dict[str, list[float]]
    widgets: dict[str, tuple[str, str]] = field(default_factory=dict)
    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    running: int = 0
    socket: Any = None
    hash: str = ""

    async def read(self, until: float) -> None:
        """Open the page, then step after step until that moment."""
        address = f"ws://localhost:{self.port}/_stcore/stream"
        async with websockets.connect(address, subprotocols=["streamlit"], max_size=None) as self.socket:  # type: ignore[list-item]
            await self.ask(self.question())
            while time.monotonic() < until:
                await asyncio.sleep(self.rng.uniform(*THINK))
                kind = self.rng.choices(("click", "layer", "ask"), (6, 4, 1))[0]
                before = time.monotonic()
                await getattr(self, kind)(self.question() if kind == "ask" else None)
                self.took[kind].append(time.monotonic() - before)

    def question(self) -> str:
        photo = self.rng.choice(gallery()).key
        return f"image={photo}&prompt=Is+there+a+{self.rng.choice(OBJECTS)}+number+{self.rng.randrange(1000)}?"

    async def ask(self, question: str | None) -> None:
        """Another photo and prompt: a run of the whole page, from its address."""
        self.values = {}
        await self.run(question or "", fragment="")

    async def click(self, _question: None) -> None:
        cell = {"point_index": (number := self.rng.randrange(144)), "point_indices": [number], "curve_number": 0}
        await self.change(
            "plotly_chart", "string_value", json.dumps({"selection": {"points": [cell], "box": [], "lasso": []}})
        )

    async def layer(self, _question: None) -> None:
        await self.change("slider", "double_array_value", [float(self.rng.randrange(31))])

    async def change(self, element: str, kind: str, value: Any) -> None:
        name, fragment = self.widgets[element]
        self.values[name] = (kind, value)
        await self.run("", fragment)

    async def run(self, address: str, fragment: str) -> None:
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.fragment_id, state.page_script_hash = address, fragment, self.hash
        state.is_history_navigation = bool(address)  # as Back does: the app takes the address over
        for name, (kind, value) in self.values.items():
            widget = state.widget_states.widgets.add(id=name)
            if kind == "double_array_value":
                widget.double_array_value.data.extend(value)
            else:
                setattr(widget, kind, value)
        await self.socket.send(message.SerializeToString())
        self.running += 1
        await self.drawn(figure=bool(address))

    async def drawn(self, figure: bool) -> None:
        """Take messages, noting the widgets that they draw, until every run has ended; or until the picture is there."""
        while self.running:
            message = ForwardMsg.FromString(await self.socket.recv())
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self.hash = message.new_session.page_script_hash
            elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                element = message.delta.new_element
                name = element.WhichOneof("type")
                if name in ("slider", "plotly_chart"):
                    shown = getattr(element, name)
                    if name == "slider" or "picture" in shown.id:
                        self.widgets[name] = (shown.id, message.delta.fragment_id)
                        if figure and name == "plotly_chart":
                            return
            elif kind == "script_finished":
                self.running -= 1


async def crowd(port: int, count: int, seconds: float) -> dict[str, list[float]]:
    """What ``count`` readers wait, by kind of step."""
    took: dict[str, list[float]] = defaultdict(list)
    end = time.monotonic() + seconds
    readers = [Reader(port, random.Random(number), took) for number in range(count)]
    await asyncio.gather(*(reader.read(end) for reader in readers))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=80)
    args = parser.parse_args()
    with serving() as port:
        asyncio.run(Reader(port, random.Random(99), defaultdict(list)).read(0))  # loads the model
        for count in args.readers:
            for kind, times in sorted(asyncio.run(crowd(port, count, args.seconds)).items()):
                median, p95 = np.percentile(times, [50, 95])
                print(
                    f"{count} readers, {kind}: {len(times)} steps, median {median:.2f} s, p95 {p95:.2f} s", flush=True
                )


if __name__ == "__main__":
    main()
