"""Servers of PostgreSQL and Redis for tests: on loopback, in a folder of their own, stopped at the end.

They run as another user than root, since `initdb` refuses root. A test is skipped with a sentence where the programs, a
driver or such a user is missing.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "s3cret-of-the-team"
_USERS = ("postgres", "redis", "nobody")
_START_SECONDS = 60


def _user() -> str | None:
    """Return the user to run servers as; None for the present one."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    user = next((name for name in _USERS if name in known), None)
    if user is None:
        pytest.skip("A database server does not run as root, and there is no other user here.")
    return user


def _program(name: str, package: str) -> str:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))
    if found is None:
        pytest.skip(f"{name} is not installed (the package {package} of Debian has it).")
    return found


def _needs_driver(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"The driver {name} is not installed.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _folder(user: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="nbc"))
    try:
        folder.chmod(0o700)
        if user is not None:
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(arguments: list[str], port: int, user: str | None, folder: Path) -> Iterator[None]:
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(arguments, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            end = time.monotonic() + _START_SECONDS
            while True:
                if server.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"{arguments[0]} did not start: {(folder / 'server.log').read_text()[-1000:]}")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield
        finally:
            # PostgreSQL ends at once on an interrupt; after SIGTERM it waits for its clients to leave.
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a server of PostgreSQL; the value is the URL of an empty database, with a password."""
    initdb, postgres = _program("initdb", "postgresql"), _program("postgres", "postgresql")
    _needs_driver("psycopg")
    user = _user()
    with _folder(user) as folder:
        run: dict[str, Any] = {"user": user, "cwd": folder, "check": True, "capture_output": True}
        (folder / "password").write_text(PASSWORD)
        shutil.chown(folder / "password", user) if user is not None else None
        data, port = str(folder / "data"), _free_port()
        made = [initdb, "-D", data, "-U", "team", "-A", "scram-sha-256", "--pwfile", "password", "--no-sync"]
        subprocess.run([*made, "-E", "UTF8", "--no-locale"], **run)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "port": port}
        arguments = [postgres, "-D", data, *(f"--{name}={value}" for name, value in options.items())]
        with _running(arguments, port, user, folder):
            yield f"postgresql+psycopg://team:{PASSWORD}@127.0.0.1:{port}/postgres"


@contextmanager
def redis() -> Iterator[str]:
    """Run a server of Redis; the value is its URL, with a password."""
    program = _program("redis-server", "redis-server")
    _needs_driver("redis")
    user = _user()
    with _folder(user) as folder:
        port = _free_port()
        options = {"bind": "127.0.0.1", "port": port, "save": "", "requirepass": PASSWORD, "dir": folder}
        arguments = [program, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        with _running(arguments, port, user, folder):
            yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
