"""What the server answers: `nbcompress/studies`, `nbcompress/report`, `nbcompress/model` and `nbcompress/delete`.

Files are read in threads, and what needs torch or a plotting library runs in a process of its own, so that the server
stays responsive. A client that asks for what it may not see learns only that it is not there; the log says why.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from jupyter_core.paths import jupyter_runtime_dir
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join
from tornado import web
from traitlets import Integer, List, Unicode
from traitlets.config import Configurable

from nbcompress.errors import StudyError
from nbcompress.server.files import JOURNAL, MODEL, FileRefused, ServedFiles
from nbcompress.server.studies import URL_VARIABLE, DeletionRefused, StudyReader, code_of, key_of
from nbcompress.study.registration import registered
from nbcompress.study.storage import without_password

Result = TypeVar("Result")

NOT_THERE = "There is no study here that can be read. The log of the server says more."
# A report draws pictures, and a model is read with torch: both take seconds to start.
_PROCESS_SECONDS = 120
# Digits of a token are 64 bytes and a name has at most 500 characters; a longer body is no request of ours.
_MAX_BODY_BYTES = 16_384
_N_THREADS = 4

REPORT_CODE = (
    "import sys; from nbcompress.server.studies import write_page; sys.stdout.write(write_page(*sys.argv[1:]))"
)
MODEL_CODE = "import sys; from nbcompress.artifact.contents import file_json; sys.stdout.write(file_json(sys.argv[1]))"


class NbcompressServer(Configurable):
    """Settings of the server part, such as `c.NbcompressServer.max_megabytes = 500`."""

    max_megabytes = Integer(256, min=1, help="Longer files are not read (megabytes).").tag(config=True)
    max_entries = Integer(20_000, min=1, help="A listing stops after so many files and folders.").tag(config=True)
    databases = List(
        Unicode(),
        help="URLs of databases whose studies are listed, too, read-only, such as postgresql+psycopg://me:password@host/db."
        " The password stays in the server.",
    ).tag(config=True)


@dataclass(frozen=True)
class Services:
    """What the handlers share.

    Attributes:
        files: The files that are served.
        reader: The studies in them.
        threads: Where files are read.
        kernel_ids: Returns the kernels that the server runs.
        runtime_folder: Where kernels register what they use.
        databases: URLs of the databases that are configured, by the URL without a password.
    """

    files: ServedFiles
    reader: StudyReader
    kernel_ids: Callable[[], list[str]]
    runtime_folder: str
    databases: Mapping[str, str] = field(default_factory=dict)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_N_THREADS, "nbcompress"))

    def registered_files(self, kernel: str) -> list[dict[str, Any]]:
        """Return what a kernel of this server has registered; nothing for other kernels."""
        return registered(self.runtime_folder, kernel) if kernel in self.kernel_ids() else []


class StudyHandler(APIHandler):
    """What all our handlers share."""

    auth_resource = "contents"

    def initialize(self, services: Services) -> None:
        self.services = services

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function that reads files; what it may not read is not there.

        Raises:
            HTTPError: 404; the reason is in the log.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.services.threads, function, *arguments)
        except (FileRefused, StudyError) as error:
            raise self.not_there(error) from None

    def not_there(self, reason: object) -> web.HTTPError:
        """Note why a request is refused, and return the error that says no more than that."""
        self.log.warning("nbcompress: %s %s refused: %.500r", self.request.method, self.request.path, str(reason))
        return web.HTTPError(404, NOT_THERE)

    def locate(self) -> Path | str:
        """Return the file that a request names: below the root, or of a kernel; or the name of a database.

        Raises:
            FileRefused: It may not be read.
        """
        kernel, path = self.get_query_argument("kernel", ""), self.get_query_argument("path", "")
        return path if not kernel and path in self.services.databases else self._file_of(path, kernel)

    def _file_of(self, path: str, kernel: str) -> Path:
        if not kernel:
            return self.services.files.resolve(path)
        # A kernel runs with the user's rights, so its files may be outside of the root. It has named each of them.
        for entry in self.services.registered_files(kernel):
            if entry["storage"] == path and (file := _file_of_storage(path)) is not None:
                try:
                    self.services.files.check_status(path, file.stat())
                except OSError as error:
                    raise FileRefused(f"{path!r} cannot be read: {error.strerror}") from error
                return file
        raise FileRefused(f"the kernel {kernel!r} has not registered {path!r}")

    def finish_json(self, data: object) -> None:
        """Answer with JSON that no cache keeps."""
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(data, allow_nan=False))


class StudiesHandler(StudyHandler):
    """Lists studies, or returns one.

    `path` (and `study`): one study as the data of the study view. `file`: the studies of one file. `folder`: those
    below a folder of the root. `code`: with `path`, the lines of Python that open the study, whose file is called
    `shown` there.
    """

    @web.authenticated
    @authorized
    async def get(self) -> None:
        if self.get_query_argument("path", None) is not None:
            await self._study()
        elif self.get_query_argument("file", None) is not None:
            self.finish_json(await self.in_thread(self._of_file, self.get_query_argument("file", "")))
        else:
            self.finish_json(await self.in_thread(self._all, self.get_query_argument("folder", "")))

    async def _study(self) -> None:
        name = self.get_query_argument("study", None)
        path = await self.in_thread(self.locate)
        if self.get_query_argument("code", None) is not None:
            study = await self.in_thread(self.services.reader.study, path, name)
            shown = self.get_query_argument("shown", self.get_query_argument("path"))
            self.finish_json({"code": code_of(study, shown)})
            return
        text = await self.in_thread(self.services.reader.view_text, path, name)
        self.set_header(
            "Cache-Control", "no-cache"
        )  # the browser asks again with the hash, and gets 304 if it is equal
        self.finish(text)

    def _of_file(self, path: str) -> dict[str, Any]:
        file = self.services.files.resolve(path)
        return {"studies": self.services.reader.summaries(file, {"path": path, "kernel": None}), "complete": True}

    def _all(self, folder: str) -> dict[str, Any]:
        """Return the studies below a folder, then those of kernels elsewhere.

        `kernel` is the kernel that the file is read by the permission of; `kernels` are all that search the study.
        """
        found = self.services.files.find(folder)
        users = self._kernels_by_file()
        studies: list[dict[str, Any]] = []
        problems: list[dict[str, str]] = []
        seen: set[str] = set()
        for path in found.paths:
            try:
                file = str(self.services.files.resolve(path))
                if file not in seen:
                    seen.add(file)
                    lines = self.services.reader.summaries(file, {"path": path, "kernel": None})
                    studies += [{**line, "kernels": users.get((file, line["name"]), [])} for line in lines]
            except (FileRefused, StudyError) as error:
                # Databases of other programs are no problem of ours.
                if path.endswith(JOURNAL):
                    self.log.warning("nbcompress: %s is not listed: %.500s", path, error)
                    problems.append({"path": path, "problem": "This file cannot be read."})
        for name in self.services.databases:
            try:
                lines = self.services.reader.summaries(name, {"path": name, "kernel": None})
                studies += [{**line, "kernels": users.get((name, line["name"]), [])} for line in lines]
            except StudyError as error:
                self.log.warning("nbcompress: %s is not listed: %.500s", name, error)
                problems.append({"path": name, "problem": "This database cannot be read."})
        studies += self._of_kernels(seen, users)
        return {"studies": studies, "problems": problems, "complete": found.is_complete}

    def _registered(self) -> Iterator[tuple[str, str, str, bool]]:
        """Yield kernel, storage, study, and whether it is searched there, of all that kernels have registered."""
        for kernel in self.services.kernel_ids():
            for entry in self.services.registered_files(kernel):
                yield kernel, entry["storage"], entry["study"], entry["is_searched"]

    def _kernels_by_file(self) -> dict[tuple[str, str], list[str]]:
        """Return the kernels that search a study, by real path and name."""
        users: dict[tuple[str, str], list[str]] = {}
        for kernel, storage, study, is_searched in self._registered():
            file = _file_of_storage(storage)
            if is_searched and (file is not None or storage in self.services.databases):
                where = storage if storage in self.services.databases else os.path.realpath(str(file))
                users.setdefault((where, study), []).append(kernel)
        return users

    def _of_kernels(self, seen: set[str], users: Mapping[tuple[str, str], list[str]]) -> list[dict[str, Any]]:
        """Return the studies that kernels have registered and that are in none of the files `seen`."""
        studies: list[dict[str, Any]] = []
        for kernel, storage, study, is_searched in self._registered():
            if storage in self.services.databases:
                continue
            file = _file_of_storage(storage)
            if file is None:
                # A database with a server needs its password, which stays in the kernel.
                kernels = [kernel] if is_searched else []
                line = {"name": study, "path": storage, "kernel": kernel, "kernels": kernels, "state": "unknown"}
                studies.append(line)
                continue
            real = os.path.realpath(file)
            if real in seen:
                continue
            seen.add(real)
            try:
                lines = self.services.reader.summaries(self._file_of(storage, kernel), {"path": storage})
            except (FileRefused, StudyError) as error:
                self.log.warning("nbcompress: %s of kernel %s is not listed: %.500s", storage, kernel, error)
                continue
            studies += [
                {**line, "kernel": kernel, "kernels": users.get((real, str(line["name"])), [])} for line in lines
            ]
        return studies


def _file_of_storage(storage: str) -> Path | None:
    """Return the file of a registered storage, or None for a database with a server."""
    if os.path.isabs(storage):
        return Path(storage)
    start = "sqlite:///"
    return Path(storage.removeprefix(start)) if storage.startswith(start) else None


class ReportHandler(StudyHandler):
    """Returns the page of a report about a study."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        path = await self.in_thread(self.locate)
        name = self.get_query_argument("study", None)
        study = await self.in_thread(self.services.reader.study, path, name)
        url = self.services.databases.get(str(path))
        page = await _printed_by(
            REPORT_CODE, str(path), key_of(study.name), environment={URL_VARIABLE: url} if url else {}
        )
        if page is None:
            raise self.not_there("the page of the report could not be written")
        self.set_header("Cache-Control", "no-store")
        # The page has a script of ours. The browser saves it, and runs none of it as a page of this server.
        self.set_header("Content-Disposition", 'attachment; filename="report.html"')
        self.finish(page, set_content_type="text/html; charset=utf-8")


class ModelHandler(StudyHandler):
    """Returns what a compressed model's file holds."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        path = await self.in_thread(lambda: self.services.files.resolve(self.get_query_argument("path", "")))
        if path.suffix != MODEL:
            raise self.not_there(f"{path.name!r} is no file of a model")
        text = await _printed_by(MODEL_CODE, str(path))
        if text is None:
            raise self.not_there(f"{path.name!r} could not be read")
        self.set_header("Cache-Control", "no-store")
        self.finish(text)


async def _printed_by(
    code: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> bytes | None:
    """Run `code` in a new process and return what it prints, or None if it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), _PROCESS_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return printed if process.returncode == 0 else None


class DeleteHandler(StudyHandler):
    """Deletes a study: the first request returns a token, and a second one with the token deletes.

    The body is JSON: `path`, `study`, and `token` in the second request. The token belongs to the study as it is, so
    one that has changed since is not deleted.
    """

    @web.authenticated
    @authorized
    async def post(self) -> None:
        body = self._body()
        path = await self.in_thread(self.services.files.resolve, body["path"])
        token = body.get("token")
        if token is None:
            token = await self.in_thread(self.services.reader.token, path, body["study"])
            study = await self.in_thread(self.services.reader.study, path, body["study"])
            self.finish_json({"deleted": False, "token": token, "trials": len(study.all_trials)})
            return
        try:
            await self.in_thread(self.services.reader.delete, path, body["study"], token)
        except DeletionRefused as error:
            self.log.warning("nbcompress: a study of %r is not deleted: %s", body["path"], error)
            raise web.HTTPError(409, str(error)) from None
        self.log.info("nbcompress: deleted the study %r of %r", body["study"], body["path"])
        self.finish_json({"deleted": True})

    def _body(self) -> Mapping[str, Any]:
        """Return the body of a request.

        Raises:
            HTTPError: 400; it is not what we take.
        """
        if len(self.request.body) > _MAX_BODY_BYTES:
            raise web.HTTPError(400, "The request is too long.")
        try:
            body = json.loads(self.request.body.decode("utf-8"))
        except (ValueError, RecursionError):
            raise web.HTTPError(400, "The request is no JSON.") from None
        is_valid = isinstance(body, dict) and all(isinstance(body.get(key), str) for key in ("path", "study"))
        if not is_valid or not isinstance(body.get("token"), str | None):
            raise web.HTTPError(400, 'The request is JSON with "path", "study" and, to confirm, "token".')
        return dict(body)


def add_handlers(app: ServerApp) -> None:
    """Add our handlers to a server."""
    settings = NbcompressServer(config=app.config)
    contents = app.contents_manager
    files = ServedFiles(
        Path(app.root_dir).expanduser(),
        max_bytes=settings.max_megabytes * 10**6,
        max_entries=settings.max_entries,
        allow_hidden=bool(getattr(contents, "allow_hidden", False)),
    )
    databases = {without_password(url): url for url in settings.databases}
    kernel_ids = app.kernel_manager.list_kernel_ids
    services = Services(files, StudyReader(databases), kernel_ids, jupyter_runtime_dir(), databases)
    base = url_path_join(app.web_app.settings["base_url"], "nbcompress")
    routes = {"studies": StudiesHandler, "report": ReportHandler, "model": ModelHandler, "delete": DeleteHandler}
    web_app: Any = app.web_app
    web_app.add_handlers(
        ".*$", [(url_path_join(base, name), handler, {"services": services}) for name, handler in routes.items()]
    )
    # Optuna takes a second to import, which the first request would wait for.
    services.threads.submit(import_module, "optuna.storages")
    app.log.info("nbcompress: studies are served below %s", base)
