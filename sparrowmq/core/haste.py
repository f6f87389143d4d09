"""Who submits jobs faster than one key may: told when to come back, and whether it has heard so.

Owns: the rate of submissions of each key, and who goes on regardless. Must not know: what a job is, or how somebody is
sent away.

A client may have sent thousands of jobs before it can know that they are too many. So the first refusal of a connection
is followed by a question, and only what was sent after the answer is held against the client. What comes before that
is refused, too: over a slow link the answer follows an upload of minutes, so that what waited for it would fill the
memory, and the client would hear nothing meanwhile and take the scheduler for dead. One that keeps to what it is told
(`pacing`) is refused about once for each job that is taken, but perhaps all at once: it may have as many under way as
were taken since the last refusal, and a network or a scheduler that stood still has them come together.
"""

from __future__ import annotations

from typing import Final

from sparrowmq.core.peers import Client
from sparrowmq.core.quotas import Quota
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m

REFUSALS: Final = 2.0  # for each job that one key may submit: beyond, a client that knows of its haste is heedless ...
REFUSALS_PER_S: Final = 64.0  # ... and so many more, for the many clients that a key may have
UNHEARD_MAX: Final = 20_000  # before it has answered: twice as many jobs as a client's settings let it have under way
MOVED_MAX: Final = 1_000  # jobs of a key that may come from other schedulers before their time, as a debt ...
REFUNDS_PER_S: Final = 2.0 * MOVED_MAX  # ... and each of them is tried again twice a second (`durable`) or less often
WAIT_S_MIN, WAIT_S_MAX = 0.05, 60.0  # of what is told: several may be taken then, and not only the next


class Haste:
    """The haste of one scheduler's clients."""

    def __init__(self, state: State) -> None:
        rate_per_s = state.settings.limits.submits_per_s
        self._state = state
        self._submits = Quota(rate_per_s)
        self._refusals = Quota(REFUSALS * rate_per_s + REFUSALS_PER_S)  # of each client that knows
        self._refunds = Quota(REFUNDS_PER_S)

    def refusal(self, now: float, client: Client, submit: m.Submit) -> m.Rejected | None:
        """Return why this comes too soon, or None; what is refused for other reasons later on counts, too.

        A later epoch is taken at once, and paid for by what comes after it: workers do not keep for ever what they have
        run for a scheduler that is gone, and what may run once only would be lost.
        """
        submits, name = self._submits, self._state.id
        wait_s = submits.wait_s(now, client.key)
        if not wait_s or (submit.epoch and submits.debt(now, client.key) < MOVED_MAX):
            submits.take(now, client.key)
            if client.knows:
                client.earned = min(client.earned + 1, UNHEARD_MAX)
            return None
        detail = (
            f"{name} takes {submits.rate_per_s:g} jobs a second of one client's key (scheduler.limits.submits_per_s)"
        )
        self._state.count("submits_too_soon")
        return m.Rejected(submit.job, submit.epoch, m.TOO_SOON, detail, min(max(wait_s, WAIT_S_MIN), WAIT_S_MAX))

    def rejected(self, now: float, client: Client, refusal: m.Rejected) -> None:
        """A submission was refused, for whatever reason. A later epoch that is to come again is not paid for twice."""
        if refusal.code == m.TOO_SOON:
            self._refused(now, client)
        elif refusal.epoch and refusal.retry_after_s and not self._refunds.wait_s(now, client.key):
            self._refunds.take(now, client.key)
            self._submits.take(now, client.key, -1.0)

    def _refused(self, now: float, client: Client) -> None:
        """Have the client say that it has the refusal, or count it."""
        if not client.warned:
            client.warned = self._state.ask(client.peer)
        elif not client.knows:
            client.unheard += 1
        elif client.earned and not client.excused:
            client.earned -= 1
        elif not client.excused:
            self._refusals.take(now, client.id)

    def answered(self, client: Client, n: int) -> None:
        """The client has answered a question; if it was that one, it knows."""
        if n and n == client.warned and not client.knows:
            client.knows, client.excused = True, len(client.waiting)

    def heedless(self, now: float, client: Client) -> str:
        """Return "", or a sentence on how this client goes on submitting although it knows, or should by now."""
        if client.unheard > UNHEARD_MAX:
            return (
                f"{client.id} was told that it submits too fast (scheduler.limits.submits_per_s), does not answer, and "
                f"has had {client.unheard:,} more refused"
            )
        if not client.knows or not self._refusals.wait_s(now, client.id):
            return ""
        return (
            f"{client.id} was told that {self._state.id} takes {self._submits.rate_per_s:g} jobs a second of its key "
            f"(scheduler.limits.submits_per_s), and has had {self._refusals.rate_per_s:g} more refused within a second"
        )
