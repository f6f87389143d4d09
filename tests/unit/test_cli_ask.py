"""Finding schedulers that are about to start."""

from __future__ import annotations

from typing import ClassVar

import pytest

from sparrowmq.cli import ask
from sparrowmq.errors import Unavailable
from sparrowmq.settings import StoreSettings
from sparrowmq.store import registry


class Fake:
    """A registry in which a scheduler appears after some looks, and a Redis that answers after some more."""

    answers: ClassVar[list[object]] = []

    def __init__(self, _store: StoreSettings) -> None:
        pass

    def schedulers(self) -> object:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize("before", [[{}, {}], [Unavailable("refused"), {}]])
def test_a_scheduler_that_is_about_to_start_is_waited_for(
    before: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "Registry", Fake)
    monkeypatch.setattr(Fake, "answers", [*before, {"scheduler-1": "its record"}])
    assert ask.schedulers(StoreSettings(), none_patience_s=60.0) == {"scheduler-1": "its record"}


def test_nobody_is_waited_for_who_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "Registry", Fake)
    monkeypatch.setattr(Fake, "answers", [{}, {"scheduler-1": "its record"}])
    assert ask.schedulers(StoreSettings()) == {}
