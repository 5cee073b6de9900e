"""Trials on the workers of a `concurrent.futures.Executor`: pools of processes, loky, ipyparallel, MPI, Slurm.

A worker connects to the notebook for the time of a trial. Over this connection come the data that it does not have,
reports, and the end of a trial that is cut; when it breaks, the notebook is gone, and so is the trial. A worker on the
machine of the notebook maps the notebook's files, and nothing is sent.
"""

from __future__ import annotations

import pickle
import secrets
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from nbcompress.errors import first_line
from nbcompress.run.engines.cluster import WorkerLost
from nbcompress.run.engines.trial_process import Listen, threads_each
from nbcompress.run.engines.worker import TrialRequest, host_of_this_process
from nbcompress.study.processes import place

Address = tuple[str, int]

UNREACHABLE = (
    "The workers of {name} cannot connect to the notebook ({why}). Trials run, but their reports come at their end, "
    "they cannot be ended early, and the data goes with each of them."
)


# How long the end of a connection is waited for after the outcome of its trial has come another way.
_SECONDS_TO_READ = 10.0


class PoolBackend:
    """Runs trials by `executor.submit`. The executor belongs to the user and is never shut down.

    Args:
        executor: Has `submit`, which returns something with `result`.
        name: The user's name for it.
    """

    def __init__(self, executor: Any, name: str) -> None:
        self.warnings: list[str] = []
        self._executor, self._name = executor, name
        self._own: list[Any] = []
        self._broken = ""
        self._is_unreachable = False
        self._listener: Listener | None = None
        self._authkey = secrets.token_bytes(32)
        self._blobs: Mapping[str, Any] = {}
        self._listeners: dict[str, Listen] = {}
        self._connections: dict[str, Connection] = {}
        self._futures: dict[str, Any] = {}
        self._workers: dict[str, str] = {}  # the host and the process that runs a trial
        self._heard: dict[str, threading.Event] = {}  # set when the connection of a trial has been read to its end
        self._cut: set[str] = set()
        self._lock = threading.Lock()

    def connect(self, jobs: int, n_bytes: int) -> int | None:  # noqa: ARG002
        # Processes of this machine need no port that others can reach.
        is_local = isinstance(self._executor, ProcessPoolExecutor) or _is_loky(self._executor)
        self._listener = Listener(("127.0.0.1" if is_local else "0.0.0.0", 0), backlog=jobs + 8, authkey=self._authkey)
        port = self._listener.address[1]
        hosts = ["127.0.0.1"] if is_local else ["127.0.0.1", *_own_addresses()]
        self._addresses: list[Address] = [(host, port) for host in hosts]
        threading.Thread(target=self._accept, args=(self._listener,), name="nbcompress-pool", daemon=True).start()
        return threads_each(jobs)

    def share(self, blobs: Mapping[str, Any]) -> None:
        self._blobs = blobs

    def refusal(self) -> str:
        return self._broken

    def run(self, request: TrialRequest, listen: Listen) -> bytes:
        key = request.key
        with self._lock:
            self._listeners[key] = listen
            self._heard[key] = threading.Event()
            is_cut = key in self._cut
        try:
            if is_cut:
                raise WorkerLost("the trial was cut")
            answer = None if self._is_unreachable else self._result(request, {})
            if isinstance(answer, str):
                self._is_unreachable = True
                self.warnings.append(UNREACHABLE.format(name=self._name, why=answer))
                answer = None
            elif answer is not None:
                # The outcome may come before the last reports have been read.
                self._heard[key].wait(_SECONDS_TO_READ)
            if answer is None:
                answer = self._result(request, {digest: bytes(blob) for digest, blob in self._blobs.items()})
            packed: bytes = answer
            return packed
        finally:
            with self._lock:
                del self._listeners[key], self._heard[key]
                self._futures.pop(key, None)
                self._workers.pop(key, None)
                self._cut.discard(key)

    def _result(self, request: TrialRequest, blobs: Mapping[str, bytes]) -> Any:
        """Submit a trial and wait: its pickled outcome, or as text why the worker cannot connect."""
        executor = self._executor
        addresses = [] if blobs else self._addresses
        try:
            future = executor.submit(run_in_pool, request, addresses, self._authkey, blobs)
            self._futures[request.key] = future
            if request.key in self._cut:
                self.cut(request.key)
            return future.result()
        except CancelledError as error:
            raise WorkerLost("the executor has cancelled it") from error
        except BrokenExecutor as error:
            self._mend(executor, error)
            raise WorkerLost(first_line(error)) from error
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            self._broken = first_line(error)
            raise WorkerLost(self._broken) from error

    def _mend(self, broken: Any, error: BrokenExecutor) -> None:
        """Go on with a new pool of the same settings in the place of a broken one, where one can be made."""
        with self._lock:
            if self._executor is not broken:
                return  # another trial has done it
            if type(broken) is ProcessPoolExecutor:
                settings: Any = broken
                fresh: Any = ProcessPoolExecutor(
                    settings._max_workers, settings._mp_context, settings._initializer, settings._initargs
                )
                self._own.append(fresh)
            elif _is_loky(broken):
                fresh = sys.modules[type(broken).__module__].get_reusable_executor(max_workers=broken._max_workers)
            else:
                self._broken = first_line(error)
                return
            self._executor = fresh
            self.warnings.append(f"A worker of {self._name} died; the search went on with a new pool like it.")

    def worker_of(self, key: str) -> str:
        return self._workers.get(key, "")

    def cut(self, key: str) -> None:
        with self._lock:
            connection, future = self._connections.get(key), self._futures.get(key)
            if key in self._listeners:
                self._cut.add(key)
        cancel = getattr(future, "cancel", None)
        if cancel is not None:
            cancel()
        if connection is not None:
            with suppress(OSError):
                connection.send("cut")

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in tuple(self._connections.values()):
            with suppress(OSError):
                connection.close()
        for executor in self._own:
            executor.shutdown(wait=False, cancel_futures=True)

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:  # closed
                return
            except Exception:  # noqa: BLE001 - somebody without the key; the next one may have it
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        """Answer one worker for the time of a trial."""
        key = ""
        try:
            with connection:
                key, worker = connection.recv()
                with self._lock:
                    if key in self._listeners:
                        self._workers[key] = worker
                while True:
                    message = connection.recv()
                    if message == "end":
                        return
                    if message == "ready":
                        # Only now: a word to cut would be taken for data that the worker waits for.
                        with self._lock:
                            self._connections[key] = connection
                            is_cut = key in self._cut
                        if is_cut:
                            connection.send("cut")
                        continue
                    if isinstance(message, list):
                        for digest in message:
                            connection.send_bytes(self._blobs[digest])
                        continue
                    listen = self._listeners.get(key)
                    if listen is not None:
                        listen(*message)
        except (EOFError, OSError, pickle.UnpicklingError):
            pass  # the worker has ended
        finally:
            self._connections.pop(key, None)
            heard = self._heard.get(key)
            if heard is not None:
                heard.set()


def _is_loky(executor: Any) -> bool:
    kind = type(executor)
    return kind.__name__ == "_ReusablePoolExecutor" and hasattr(sys.modules[kind.__module__], "get_reusable_executor")


def _own_addresses() -> list[str]:
    """Return how other machines may reach this one."""
    name = socket.gethostname()
    with suppress(OSError):
        return list(dict.fromkeys([name, socket.getfqdn(), *socket.gethostbyname_ex(name)[2]]))
    return [name]


def run_in_pool(
    request: TrialRequest, addresses: Sequence[Address], authkey: bytes, blobs: Mapping[str, bytes]
) -> bytes | str:
    """Run a trial on the worker that calls this; return its pickled outcome, or why the notebook cannot be reached.

    Args:
        request: What to run.
        addresses: Of the notebook; empty to do without a connection.
        authkey: Proves to each side that the other one belongs to the search.
        blobs: The data, where there is no connection.
    """
    if not addresses:
        return host_of_this_process().run(request, lambda _missing: blobs, lambda _step, _values: None)
    connection: Any = None
    why = ""
    for address in addresses:
        try:
            connection = Client(address, authkey=authkey)
            break
        except Exception as error:  # noqa: BLE001 - the next address may do
            why = first_line(error)
    if connection is None:
        return why
    with connection:
        return _run_connected(connection, request)


def _run_connected(connection: Connection, request: TrialRequest) -> bytes:
    host, sending = host_of_this_process(), threading.Lock()
    connection.send((request.key, place()))

    def fetch(missing: Sequence[str]) -> dict[str, bytes]:
        connection.send(list(missing))
        return {digest: connection.recv_bytes() for digest in missing}

    def listen(step: int, values: Mapping[str, float]) -> None:
        with sending, suppress(OSError):
            connection.send((step, dict(values)))

    def watch() -> None:
        """Wait for the word to cut the trial, or for the end of the notebook, which cuts it, too."""
        with suppress(EOFError, OSError):
            connection.recv()
        host.cut(request.key)

    def begin() -> None:
        connection.send("ready")
        threading.Thread(target=watch, daemon=True).start()

    try:
        return host.run(request, fetch, listen, on_ready=begin)
    finally:
        # To close the connection says nothing while `watch` waits at it.
        with sending, suppress(OSError):
            connection.send("end")
