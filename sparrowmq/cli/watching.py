"""A bar on the terminal while something long goes on.

Owns: whether there is one. Must not know: what goes on, or how a bar is drawn.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparrowmq.client.bar import Count


@contextlib.contextmanager
def watching(count: Count) -> Iterator[None]:
    """Draw a bar of ``count`` until the end of the block; nothing where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from sparrowmq.client.bar import bar

    with bar(count, in_notebook=False):
        yield
