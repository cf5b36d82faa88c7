"""A job's log as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import Any


class Tail:
    """Reads a job's log in a thread, until it ends or the connection breaks.

    Args:
        client: Ray's.
        number: of the submission.
    """

    def __init__(self, client: Any, number: str) -> None:
        self._client, self._number = client, number
        self._chunks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self.is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._read())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _read(self) -> None:
        with contextlib.suppress(Exception):  # whether the job goes on is asked for elsewhere
            async for chunk in self._client.tail_job_logs(self._number):
                self._chunks.put(chunk)
        self._chunks.put(None)

    def read(self, seconds: float) -> str:
        """What has come; waits up to so many seconds for it."""
        parts: list[str] = []
        with contextlib.suppress(queue.Empty):
            while not self.is_over:
                chunk = self._chunks.get(timeout=seconds if not parts else 0)
                self.is_over = chunk is None
                parts.append(chunk or "")
        return "".join(parts)

    def close(self) -> None:
        """Stop reading."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(lambda: self._task.cancel())
