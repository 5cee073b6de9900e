"""Controls of a search, called from any thread."""

from __future__ import annotations

from nbcompress.run import Controls


def test_states() -> None:
    controls = Controls()
    assert (controls.is_stopped, controls.is_paused) == (False, False)
    controls.pause()
    assert controls.is_paused
    controls.resume()
    assert not controls.is_paused
    controls.stop()
    assert controls.is_stopped


def test_listeners() -> None:
    controls, heard = Controls(), []
    controls.skip()
    with controls.listening(heard.append):
        for command in (controls.stop, controls.pause, controls.resume, controls.skip):
            command()
    controls.skip()
    assert heard == ["stop", "pause", "resume", "skip"]
