"""What the slots of one worker are told when they start.

Owns: these options; they travel to a zygote, and from there to each slot. Must not know: where they come from.
"""

from __future__ import annotations

import msgspec

from sparrowmq.settings import WorkerSettings


class SlotOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the fields of the same names in `WorkerSettings`."""

    preload: list[str] = []
    allow: list[str] = []
    output_bytes: int = 256 * 1024
    recycle_mib: int = 0
    task_memory_mib: int = 0
    task_processes: int = 512

    @classmethod
    def of(cls, settings: WorkerSettings) -> SlotOptions:
        """Return a worker's options."""
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})
