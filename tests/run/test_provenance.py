"""The record of versions and machine."""

from __future__ import annotations

import json
import os

from nbcompress.run.provenance import provenance


def test_it_is_json_and_names_no_person() -> None:
    found = provenance()
    text = json.dumps(found)
    assert found["versions"]["python"].count(".") == 2
    assert found["machine"]["cores"] == os.cpu_count()
    assert os.path.expanduser("~") not in text
