"""One search of a study at a time in one process, and no deletion under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcompress.errors import StudyError
from nbcompress.space import Float, Space
from nbcompress.study import Goal, Study, delete_study, list_studies, open_study

TEXT = "Study 's' is being searched in this process"


def opened(storage: Path | None, **options: bool) -> Study:
    return open_study("s", Space({"x": Float(0, 1)}), Goal.of(minimize=["loss"]), storage=storage, **options)


def test_a_study_is_searched_once_at_a_time(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "journal"), opened(tmp_path / "journal")
    with first.searched():
        with pytest.raises(StudyError, match=TEXT):
            second.check_free()
        with pytest.raises(StudyError, match=TEXT), second.searched():
            pass
        opened(tmp_path / "journal", fresh=True).check_free()
        opened(tmp_path / "other").check_free()
        with pytest.raises(StudyError, match=TEXT):  # the refused one did not set it free
            second.check_free()
    with second.searched():
        pass


def test_it_is_not_deleted_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path / "journal").searched(), pytest.raises(StudyError, match=TEXT):
        delete_study("s", tmp_path / "journal")
    delete_study("s", tmp_path / "journal")
    assert list_studies(tmp_path / "journal") == ()


def test_studies_in_memory_are_told_apart() -> None:
    with opened(None).searched(), opened(None).searched():
        pass
