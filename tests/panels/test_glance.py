"""What is shown of a study at once."""

from __future__ import annotations

import subprocess
import sys

import jsonschema
from panel_studies import digits_study

from nbcompress.panels import MIME
from nbcompress.panels.glance import study_glance
from nbcompress.panels.view import schema


def test_a_glance_is_a_view_without_pictures() -> None:
    bundle = study_glance(digits_study(24), {"accuracy": 0.98})
    jsonschema.validate(bundle[MIME], dict(schema()))
    assert set(bundle) == {MIME, "text/plain"}
    assert "digits" in bundle["text/plain"]


def test_a_glance_waits_for_nothing_that_draws() -> None:
    code = "import sys, nbcompress.panels.glance; print({'seaborn', 'matplotlib', 'pandas'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
