"""A connection that a test may slow down, silence, cut or break: a TCP proxy on loopback, one for each link.

Silence is what a broken network looks like: connections are accepted, nothing passes, and what was sent meanwhile
arrives when the link is healed, since both ends go on trying.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_START_TIMEOUT_S = 10.0
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time at all: the other end is told that the connection broke, not that it ended."""
Target = tuple[str, int] | Path
"""Host and port, or the path of a Unix socket."""


class Link:
    """Passes bytes between whoever connects to ``port`` and ``target``. Its methods may be called from any thread."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.port = 0
        self.num_connections = 0
        self.num_cut = 0
        """Connections that were broken on purpose."""
        self._delay_s = 0.0
        self._lose_after: bytes | None = None
        self._num_to_lose = 0
        self._cut_after: int | None = None
        self._is_refusing = False
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._is_up.wait(_START_TIMEOUT_S):
            raise RuntimeError("the link did not come up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_TIMEOUT_S)

    @property
    def url(self) -> str:
        """Where a web server behind it answers."""
        return f"http://127.0.0.1:{self.port}"

    # ---- what a test may do to it ----

    def delay(self, seconds: float) -> None:
        """Let everything take so much longer, each way."""
        self._do(lambda: setattr(self, "_delay_s", seconds))

    def silence(self) -> None:
        """Accept connections and let nothing pass, in either direction."""
        self._do(self._open.clear)

    def cut(self) -> None:
        """Break every connection, and every new one, at once."""
        self._do(self._cut)

    def cut_after(self, num_bytes: int) -> None:
        """Break the next connection that has brought so many bytes of answers."""
        self._do(lambda: setattr(self, "_cut_after", num_bytes))

    def lose_answers(self, words: bytes, *, times: int = 1) -> None:
        """Break the connection instead of bringing the answer to a request that contains ``words``."""

        def begin() -> None:
            self._lose_after, self._num_to_lose = words, times

        self._do(begin)

    def heal(self) -> None:
        """Be an ordinary link again."""

        def heal() -> None:
            self._delay_s, self._lose_after, self._cut_after, self._is_refusing = 0.0, None, None, False
            self._open.set()

        self._do(heal)

    def _do(self, act: Callable[[], object]) -> None:
        done = threading.Event()

        def acting() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(acting)
        if not done.wait(_START_TIMEOUT_S):
            raise RuntimeError("the link does not listen to the test")

    def _cut(self) -> None:
        self._is_refusing = True
        for writer in tuple(self._writers):
            self._break(writer)

    # ---- the loop ----

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._writers.add(writer)
        behind: asyncio.StreamWriter | None = None
        try:
            if self._is_refusing:
                self._break(writer)
                return
            answers, behind = await self._connect()
            self._writers.add(behind)
            passage = _Passage(writer)
            asking = self._loop.create_task(self._pass_on(reader, behind, passage, is_answer=False))
            try:
                await self._pass_on(answers, writer, passage, is_answer=True)
            finally:
                asking.cancel()
        except OSError:
            self._break(writer)
        finally:
            for one in (writer, behind):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(str(self.target))
        return await asyncio.open_connection(*self.target)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: "_Passage", *, is_answer: bool
    ) -> None:
        try:
            await self._pass_all(reader, writer, passage, is_answer=is_answer)
        except ConnectionError:  # what broke here breaks there as well
            self._break(writer)

    async def _pass_all(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: "_Passage", *, is_answer: bool
    ) -> None:
        while True:
            await self._open.wait()
            data = await reader.read(_CHUNK)
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._open.wait()
            if is_answer and self._is_lost(passage, data):
                return
            self._note_request(passage, data, is_answer=is_answer)
            if not data:
                with suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    def _note_request(self, passage: "_Passage", data: bytes, *, is_answer: bool) -> None:
        if not is_answer and self._lose_after is not None and self._lose_after in data and self._num_to_lose:
            self._num_to_lose -= 1
            passage.is_doomed = True

    def _is_lost(self, passage: "_Passage", data: bytes) -> bool:
        """Whether the connection is broken instead of bringing these bytes of an answer."""
        passage.num_answered += len(data)
        if self._cut_after is not None and passage.num_answered >= self._cut_after:
            passage.is_doomed, self._cut_after = True, None
        if passage.is_doomed:
            self.num_cut += 1
            self._break(passage.asker)
        return passage.is_doomed

    def _break(self, writer: asyncio.StreamWriter) -> None:
        if (found := writer.get_extra_info("socket")) is not None and found.family != socket.AF_UNIX:
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


class _Passage:
    """What is known of one connection."""

    def __init__(self, asker: asyncio.StreamWriter) -> None:
        self.asker = asker
        self.num_answered = 0
        self.is_doomed = False
