"""Which functions a worker runs: its allow-list, `worker.allow`.

Owns: what an entry admits, and the words for what is refused. Must not know: how functions are found, loaded or run.

An entry is "module:function", compared with a task's function as text, or "module:*": any function of exactly that
module that is public, stands at its top level and was defined there. What a module has merely imported is not its own,
or "jobs:*" would be a way to `jobs.os.system`. Such a function can be listed by its full name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sparrowmq.protocol import messages as m

SETTING: Final = "worker.allow"
_EVERY: Final = "*"
_WHAT: Final = {m.PYTHON: "a pickled function", m.COMMAND: "a command", m.SLEEP: "a sleep"}


def refusal(allow: Collection[str], kind: int, name: str) -> str:
    """Return why a task of this kind is refused unseen, "" where it is not. ``name``: "module:function", for calls."""
    if not allow:
        return ""
    if kind != m.CALL:
        return _refused(_WHAT.get(kind, f"a task of kind {kind}"), "only calls of functions on the list")
    module, _, path = name.partition(":")
    own = path.isidentifier() and not path.startswith("_")  # `refusal_of_import` sees to the rest
    if (name in allow and path != _EVERY) or (own and f"{module}:{_EVERY}" in allow):
        return ""
    return _refused(repr(name[:200]), "only functions on the list, which it is not")


def refusal_of_import(allow: Collection[str], name: str, target: object) -> str:
    """Return why ``target``, which ``name`` has led to, is refused: a whole module is listed, and it is not its own."""
    if not allow or name in allow:
        return ""
    module, home = name.partition(":")[0], getattr(target, "__module__", None)
    if home == module:
        return ""
    return _refused(repr(name[:200]), f"of {module!r} only what it defines itself, and this is of {str(home)[:200]!r}")


def _refused(what: str, runs: str) -> str:
    return f"{what} is refused by the setting {SETTING} of this worker: it runs {runs}"
