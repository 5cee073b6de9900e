"""A real kernel, for tests of what happens when it runs, stops and dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager


@dataclass
class Reply:
    """What one cell left behind."""

    status: str = ""
    text: str = ""
    bundles: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


class Kernel:
    """Runs cells in a kernel of its own, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=dict(os.environ, OMP_NUM_THREADS="1"))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, code: str) -> str:
        """Send a cell as JupyterLab does, and return at once."""
        content = {"code": code, "allow_stdin": True, "store_history": True, "user_expressions": {}}
        message = self.client.session.msg("execute_request", content, metadata={"cellId": "a"})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def start_by_program(self, code: str) -> str:
        """Send a cell as programs that run notebooks do, which take no input, and return at once."""
        return str(self.client.execute(code, allow_stdin=False))

    def type(self, code: str) -> str:
        """Send code as Jupyter console and qtconsole do, and return at once."""
        return str(self.client.execute(code))

    def finish(self, message: str, timeout: float = 120) -> Reply:
        """Collect what the cell `message` leaves until it ends."""
        reply, end = Reply(), time.monotonic() + timeout
        while time.monotonic() < end:
            got = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            if got["parent_header"].get("msg_id") != message:
                continue
            kind, content = got["msg_type"], got["content"]
            if kind == "stream":
                reply.text += content["text"]
            elif kind in ("display_data", "execute_result", "update_display_data"):
                reply.bundles.append(content["data"])
            elif kind == "error":
                reply.error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                reply.status = self._status_of(message)
                return reply
        raise TimeoutError(f"the cell still ran after {timeout} s")

    def _status_of(self, message: str) -> str:
        while True:
            answer = self.client.get_shell_msg(timeout=60)
            if answer["parent_header"].get("msg_id") == message:
                return str(answer["content"]["status"])

    def run(self, code: str, timeout: float = 120) -> Reply:
        """Run a cell to its end."""
        return self.finish(self.start(code), timeout)

    def must(self, code: str, timeout: float = 120) -> Reply:
        reply = self.run(code, timeout)
        assert reply.status == "ok", reply.error or reply.text
        return reply

    def kill(self) -> None:
        """End the kernel as `kill -9` does."""
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    one = Kernel(folder)
    try:
        yield one
    finally:
        one.close()
