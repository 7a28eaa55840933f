"""The network between two processes, for tests that cut it.

proxy = await Proxy(plane.address).start()
proxy.stall()       # nobody is told: connections stay open, and no byte arrives
await proxy.drop()  # connections end, and new ones end at once
proxy.heal()
"""

from __future__ import annotations

import asyncio
import contextlib

PIECE = 1 << 16


class Proxy:
    """Passes bytes on to a server on loopback."""

    def __init__(self, target: str) -> None:
        self._target = target.rsplit(":", 1)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._dropping = False
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> Proxy:
        """Listens."""
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    def stall(self) -> None:
        """Holds every byte back from now on."""
        self._flowing.clear()

    async def drop(self) -> None:
        """Ends what is open, with the bytes that are held back, and what is opened from now on."""
        self._dropping = True
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def heal(self) -> None:
        """Passes bytes on again."""
        self._dropping = False
        self._flowing.set()

    async def close(self) -> None:
        """Ends everything."""
        await self.drop()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        there: asyncio.StreamWriter | None = None
        try:
            if not self._dropping:
                back, there = await asyncio.open_connection(*self._target)
                await asyncio.gather(self._passed(reader, there), self._passed(back, writer))
        except (OSError, asyncio.CancelledError):
            pass  # one of the two is gone, or the network is
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()  # nor does the end of a connection get through
        with contextlib.suppress(OSError):
            writer.write_eof()
