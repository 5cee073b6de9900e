"""Texts speak the language of whoever reads them."""

from __future__ import annotations

import pickle

from nbcompress.errors import SearchFailed, option, speaking_of_options


def test_options_are_named_as_the_caller_types_them() -> None:
    assert option("trial_timeout") == "trial_timeout"
    assert option("until", "no gain 3") == "until='no gain 3'"
    assert option("fresh", True) == "fresh=True"
    with speaking_of_options():
        assert option("trial_timeout") == "--trial-timeout"
        assert option("jobs", 2) == "--jobs 2"
        assert option("until", "no gain 3") == '--until "no gain 3"'
        assert option("fresh", True) == "--fresh"
    assert option("jobs", 2) == "jobs=2"


def test_a_failed_search_holds_its_study() -> None:
    error = SearchFailed("Stopped.", "the study")
    assert (str(error), error.study) == ("Stopped.", "the study")
    assert pickle.loads(pickle.dumps(error)).args == ("Stopped.",)
