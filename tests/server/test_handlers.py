"""The server part, asked by friends and by others, in a real server."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request

import optuna
import pytest

import nbcompress as nc

sys.path[:0] = [str(Path(__file__).parent)]

from jsonschema import Draft202012Validator  # noqa: E402
from jupyter import JupyterServer, jupyter_server  # noqa: E402

from nbcompress.panels.view import schema  # noqa: E402
from nbcompress.server.studies import StudyReader  # noqa: E402

SECRET = "a secret outside of the root"
HOSTILE_NAMES = ("x" * 100_000, "<img src=x onerror=alert(1)>" * 4_000, "\u202e\u05e2\u05d1\u05e8\u05d9\u05ea" * 15_000)


def search(path: Path, name: str, trials: int = 3) -> None:
    nc.search(
        lambda x: {"loss": x * x},
        {"x": nc.Float(0, 1)},
        minimize="loss",
        trials=trials,
        sampler="sobol",
        storage=str(path),
        study=name,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    home = tmp_path_factory.mktemp("served")
    root = home / "root"
    (root / "sub").mkdir(parents=True)
    search(root / "nbcompress.journal", "digits")
    search(root / "nbcompress.journal", "<script>alert(1)</script>", 2)
    search(root / "sub" / "deep.journal", "deep", 2)
    (root / "broken.journal").write_text('{"op_code": 0, "nonsense": true}\n')
    (root / "text.journal").write_text("just text\n")
    (root / "long.journal").write_text("x" * 3_000_000)
    (home / "outside.journal").write_text(SECRET)
    (root / "link.journal").symlink_to(home / "outside.journal")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    foreign = optuna.create_study(storage=f"sqlite:///{root / 'mine.db'}", study_name="theirs")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    (root / "other.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    with jupyter_server(root, "--NbcompressServer.max_megabytes=2") as started:
        yield started


@pytest.fixture(scope="module")
def with_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A server that is configured to show two databases; nothing answers at the second one."""
    home = tmp_path_factory.mktemp("configured")
    (home / "root").mkdir()
    url = f"sqlite:///{home / 'team.db'}"
    optuna.create_study(storage=url, study_name="team").optimize(lambda trial: trial.suggest_int("n", 1, 9), n_trials=2)
    journal = optuna.storages.journal.JournalFileBackend(str(home / "root" / "names.journal"))
    for name in HOSTILE_NAMES:
        optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name=name)
    missing = "postgresql+psycopg://me:s3cret@127.0.0.1:1/none"
    options = (f"--NbcompressServer.databases={text}" for text in (url, missing))
    with jupyter_server(home / "root", *options) as started:
        yield started


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Return a hash and the time of change of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines_of(server: JupyterServer, **arguments: str) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in server.get("nbcompress/studies", **arguments).json["studies"]}


def test_the_list_has_every_study_below_the_root(server: JupyterServer) -> None:
    before = state_of(server.root.parent)
    answer = server.get("nbcompress/studies")
    assert answer.status == 200
    assert answer.json["complete"] is True
    lines = {line["name"]: line for line in answer.json["studies"]}
    assert list(lines) == ["theirs", "digits", "<script>alert(1)</script>", "deep"]
    digits = lines["digits"]
    assert (digits["path"], digits["state"], digits["trials"], digits["done"], digits["wanted"]) == (
        "nbcompress.journal",
        "ended",
        3,
        3,
        3,
    )
    assert digits["best"]["values"].keys() == {"loss"}
    assert digits["ours"] is True
    assert lines["theirs"]["ours"] is False
    assert lines["deep"]["path"] == "sub/deep.journal"
    assert {problem["path"] for problem in answer.json["problems"]} >= {"broken.journal", "text.journal"}
    assert state_of(server.root.parent) == before, "reading changed a file"
    assert list(lines_of(server, folder="sub")) == ["deep"]
    assert list(lines_of(server, file="mine.db")) == ["theirs"]


@pytest.mark.parametrize(
    ("path", "study", "n_trials"),
    [("nbcompress.journal", "digits", 3), ("nbcompress.journal", None, 2), ("mine.db", None, 3)],
)
def test_a_file_is_the_data_of_the_study_view(
    server: JupyterServer, path: str, study: str | None, n_trials: int
) -> None:
    answer = server.get("nbcompress/studies", path=path, **({} if study is None else {"study": study}))
    assert answer.status == 200
    Draft202012Validator(schema()).validate(answer.json)
    assert len(answer.json["trials"]) == n_trials
    again = server.get(
        "nbcompress/studies",
        {"If-None-Match": answer.headers["Etag"]},
        path=path,
        **({} if study is None else {"study": study}),
    )
    assert again.status == 304


def test_a_configured_database_is_read_and_never_written(with_databases: JupyterServer) -> None:
    server = with_databases
    before = state_of(server.root.parent)
    listing = server.get("nbcompress/studies").json
    (line,) = (line for line in listing["studies"] if "://" in line["path"])
    assert (line["name"], line["ours"], line["kernel"], line["trials"]) == ("team", False, None, 2)
    assert listing["problems"] == [
        {"path": "postgresql+psycopg://me:***@127.0.0.1:1/none", "problem": "This database cannot be read."}
    ]
    where = {"path": line["path"], "study": "team"}
    view = server.get("nbcompress/studies", **where).json
    assert [trial["state"] for trial in view["trials"]] == ["complete", "complete"]
    code = server.get("nbcompress/studies", code="1", shown=line["path"], **where).json["code"]
    found: dict[str, Any] = {}
    exec(code, found)
    assert len(found["study"].trials) == 2
    assert server.post("nbcompress/delete", where).status == 404
    assert server.get("nbcompress/studies", path=f"{line['path']}x").status == 404
    assert "Study team" in server.get("nbcompress/report", **where).text
    assert "s3cret" not in server.log
    assert state_of(server.root.parent) == before


def test_studies_with_names_of_100_kilobytes_are_listed_and_opened(with_databases: JupyterServer) -> None:
    answer = with_databases.get("nbcompress/studies", file="names.journal")
    assert len(answer.text) < 10_000
    lines = answer.json["studies"]
    assert len(lines) == len(HOSTILE_NAMES)
    for line, name in zip(lines, HOSTILE_NAMES, strict=True):
        where = {"path": "names.journal", "study": line["name"]}
        assert with_databases.get("nbcompress/studies", **where).json["name"][:20] == name[:20]
        code = with_databases.get("nbcompress/studies", code="1", **where).json["code"]
        assert repr(name) in code


def test_a_file_says_what_its_trials_keep(tmp_path: Path) -> None:
    def keeping(x: float) -> dict[str, float]:
        nc.keep(small={"x": x})
        return {"loss": x * x}

    where = tmp_path / "kept.journal"
    options: dict[str, Any] = {"minimize": "loss", "trials": 3, "sampler": "sobol", "storage": str(where)}
    study = nc.search(keeping, {"x": nc.Float(0, 1)}, study="keeps", **options)
    best = study.best
    assert best is not None
    assert StudyReader().view(where, "keeps")["kept"] == {str(best.number): ["small"]}
    # What is behind a link may be elsewhere.
    (tmp_path / "kept.kept").rename(tmp_path / "moved")
    (tmp_path / "kept.kept").symlink_to(tmp_path / "moved")
    assert StudyReader().view(where, "keeps")["kept"] == {}


def test_the_code_opens_the_study(server: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(server.root)
    for path, study, attribute in [("nbcompress.journal", "digits", "trials"), ("mine.db", "theirs", "trials")]:
        code = server.get("nbcompress/studies", path=path, study=study, code="1").json["code"]
        names: dict[str, Any] = {}
        exec(code, names)
        assert len(getattr(names["study"], attribute)) == 3


@pytest.mark.parametrize(
    "path",
    [
        "../outside.journal",
        "sub/../../outside.journal",
        "/etc/passwd",
        "link.journal",
        "long.journal",
        "broken.journal",
        "text.journal",
        "other.db",
        "missing.journal",
        ".hidden.journal",
        "a\0b.journal",
        "%2e%2e/outside.journal",
    ],
)
def test_what_may_not_be_read_is_not_there(server: JupyterServer, path: str) -> None:
    before = state_of(server.root.parent)
    for arguments in ({"path": path}, {"file": path}):
        answer = server.get("nbcompress/studies", **arguments)
        assert answer.status == 404
        assert answer.json["message"] == "There is no study here that can be read. The log of the server says more."
        for leak in (SECRET, str(server.root), "Traceback"):
            assert leak not in answer.text
    assert "refused" in server.log
    assert state_of(server.root.parent) == before


@pytest.mark.parametrize(
    "path", ["nbcompress/studies", "nbcompress/report?path=nbcompress.journal", "nbcompress/model"]
)
def test_nobody_without_the_token(server: JupyterServer, path: str) -> None:
    answer = server.ask(Request(server.address + path))
    assert answer.status == 403
    assert "digits" not in answer.text
    wrong = server.ask(Request(server.address + path, headers={"Authorization": "token wrong"}))
    assert wrong.status == 403


def test_a_page_of_another_origin_gets_nothing(server: JupyterServer) -> None:
    # With the cookie of a user who is logged in, but from another page, and without the XSRF token.
    login = server.ask(Request(f"{server.address}api/status?token=test"))
    cookie = login.headers.get("Set-Cookie", "").split(";")[0]
    assert cookie
    asked = {"Cookie": cookie, "Origin": "https://evil.example", "Content-Type": "application/json"}
    body = json.dumps({"path": "nbcompress.journal", "study": "digits"}).encode()
    deletion = server.ask(Request(f"{server.address}nbcompress/delete", data=body, headers=asked, method="POST"))
    assert deletion.status in (403, 404)
    assert "token" not in deletion.text.replace("_xsrf", "")
    same_origin = {"Cookie": cookie, "Content-Type": "application/json"}
    forged = server.ask(Request(f"{server.address}nbcompress/delete", data=body, headers=same_origin, method="POST"))
    assert forged.status == 403
    listing = server.ask(Request(f"{server.address}nbcompress/studies", headers=asked))
    assert listing.status == 404
    assert "digits" in lines_of(server)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not json", 400),
        (b"[" * 10_000, 400),
        (b"x" * 20_000, 400),
        ([], 400),
        ({"path": "nbcompress.journal"}, 400),
        ({"path": "nbcompress.journal", "study": "digits", "token": 1}, 400),
        ({"path": "../outside.journal", "study": "digits"}, 404),
        ({"path": "nbcompress.journal", "study": "nothing"}, 404),
        ({"path": "nbcompress.journal", "study": "digits", "token": "0" * 64}, 409),
        ({"path": "mine.db", "study": "theirs", "token": "0" * 64}, 409),
    ],
)
def test_requests_that_delete_nothing(server: JupyterServer, body: object, status: int) -> None:
    before = state_of(server.root)
    answer = server.post("nbcompress/delete", body)
    assert answer.status == status, answer.text
    assert state_of(server.root) == before


def test_a_study_is_deleted_with_its_token_only_as_it_was_when_asked(server: JupyterServer) -> None:
    path = server.root / "temporary.journal"
    search(path, "going")
    request = {"path": "temporary.journal", "study": "going"}
    asked = server.post("nbcompress/delete", request).json
    assert (asked["deleted"], asked["trials"]) == (False, 3)
    search(path, "going", 4)
    late = server.post("nbcompress/delete", {**request, "token": asked["token"]})
    assert late.status == 409
    assert "has changed since you were asked" in late.json["message"]
    token = server.post("nbcompress/delete", request).json["token"]
    assert server.post("nbcompress/delete", {**request, "token": token}).json == {"deleted": True}
    assert lines_of(server, file="temporary.journal") == {}
    os.unlink(path)


def test_a_journal_is_read_as_it_grows(server: JupyterServer) -> None:
    path = server.root / "growing.journal"
    search(path, "growing", 2)
    assert lines_of(server, file="growing.journal")["growing"]["trials"] == 2
    view = {"path": "growing.journal", "study": "growing"}
    assert [len(server.get("nbcompress/studies", **view).json["trials"]) for _ in range(2)] == [2, 2]
    search(path, "growing", 5)
    assert len(server.get("nbcompress/studies", **view).json["trials"]) == 5
    search(path, "second", 1)
    lines = lines_of(server, file="growing.journal")
    assert (lines["growing"]["trials"], lines["second"]["trials"]) == (5, 1)
    path.unlink()
    search(path, "another", 1)
    assert list(lines_of(server, file="growing.journal")) == ["another"]
    path.unlink()


def test_a_kernel_shows_the_studies_that_it_registered_and_no_password(server: JupyterServer) -> None:
    outside = server.root.parent / "elsewhere.journal"
    search(outside, "elsewhere", 2)
    kernel = server.post("api/kernels", {"name": "python3"}).json["id"]
    file = server.home / "runtime" / f"nbcompress-{kernel}.json"
    studies = [
        {"storage": str(outside), "study": "elsewhere"},
        {"storage": "postgresql://me:***@host/db", "study": "in a database"},
    ]
    file.write_text(json.dumps({"version": 1, "studies": studies}))
    lines = lines_of(server)
    assert (lines["elsewhere"]["kernel"], lines["elsewhere"]["trials"]) == (kernel, 2)
    assert lines["elsewhere"]["kernels"] == []  # opened, not searched: a page must not offer to stop it there
    assert lines["in a database"]["state"] == "unknown"
    view = server.get("nbcompress/studies", path=str(outside), kernel=kernel)
    assert view.json["name"] == "elsewhere"
    # Not another file, not by a kernel that does not run, and not for deletion.
    for arguments in [
        {"path": str(outside)},
        {"path": "/etc/passwd", "kernel": kernel},
        {"path": str(outside), "kernel": "../../etc"},
        {"path": str(outside), "kernel": "0" * 8},
    ]:
        assert server.get("nbcompress/studies", **arguments).status == 404
    assert server.post("nbcompress/delete", {"path": str(outside), "study": "elsewhere"}).status == 404
    server.ask(Request(f"{server.address}api/kernels/{kernel}", headers=server.authorization, method="DELETE"))
    assert "elsewhere" not in lines_of(server)


def test_a_report_is_saved_and_not_shown(server: JupyterServer) -> None:
    answer = server.get("nbcompress/report", path="nbcompress.journal", study="digits")
    assert answer.status == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "Study digits" in answer.text
