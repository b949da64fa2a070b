import re

import pytest

from headstart.system import progress


def test_without_a_terminal_lines_in_the_log_say_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    caplog.set_level("INFO", logger="headstart")
    assert list(progress.track(range(4), "decoding images")) == [0, 1, 2, 3]
    assert len(caplog.messages) == 4
    assert re.fullmatch(r"decoding images 2/4, \d+\.\d minutes left", caplog.messages[1])


@pytest.mark.parametrize("every", [60.0, 3600.0])
def test_short_work_logs_nothing(monkeypatch, caplog, every):
    monkeypatch.setattr(progress, "LINE_EVERY", every)
    caplog.set_level("INFO", logger="headstart")
    list(progress.track(range(4), "decoding images"))
    assert not caplog.messages
