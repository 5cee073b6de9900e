"""A real Jupyter server with our extension, and requests to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[2]
TOKEN = "test"


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class JupyterServer:
    """A running server.

    Attributes:
        address: Its address, with a slash at the end.
        root: The folder that it serves.
        home: Its own folders, and its log.
    """

    address: str
    root: Path
    home: Path

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def get(self, url: str, headers: dict[str, str] | None = None, **arguments: str) -> Answer:
        """Ask with the token."""
        query = f"?{urlencode(arguments)}" if arguments else ""
        return self.ask(Request(f"{self.address}{url}{query}", headers={**self.authorization, **(headers or {})}))

    def post(self, url: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {**self.authorization, "Content-Type": "application/json", **(headers or {})}
        return self.ask(Request(f"{self.address}{url}", data=data, headers=given, method="POST"))

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"token {TOKEN}"}

    def ask(self, request: Request) -> Answer:
        try:
            with urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.read().decode(), dict(answer.headers))
        except HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(), dict(error.headers))


@contextmanager
def jupyter_server(root: Path, *options: str) -> Iterator[JupyterServer]:
    """Start a server with the extension of this checkout, whatever is installed."""
    home = Path(tempfile.mkdtemp(prefix="jupyter-"))
    configuration = home / "etc" / "jupyter_server_config.d"
    configuration.mkdir(parents=True)
    shutil.copy(ROOT / "jupyter-config" / "nbcompress.json", configuration)
    command = [
        *(sys.executable, "-m", "jupyter", "server", "--no-browser", "--allow-root", "--port=0"),
        *(f"--IdentityProvider.token={TOKEN}", "--ServerApp.password=", f"--ServerApp.root_dir={root}", *options),
    ]
    folders = {
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_CONFIG_PATH": home / "etc",
        "PYTHONPATH": ROOT,
    }
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield JupyterServer(_address(process, home), root, home)
        finally:
            process.terminate()
            process.wait(60)
            shutil.rmtree(home, ignore_errors=True)


def _address(process: subprocess.Popen[bytes], home: Path) -> str:
    for _ in range(300):
        for info in (home / "runtime").glob("jpserver-*.json"):
            text = info.read_text()
            if text.strip():
                url: str = json.loads(text)["url"]
                try:
                    urlopen(f"{url}api", timeout=2).close()
                except OSError:
                    break
                return url
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("The Jupyter server did not start:\n" + (home / "log").read_text())
