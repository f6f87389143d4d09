"""What users would pick instead, each doing the same work: `runner` in the system's own virtual environment.

Owns: one module a system, with the settings its own documentation recommends for many short tasks, and the
works. Must not know: sparrowmq. Nothing here imports it, or anything that is not in the system's own environment:
this directory is on the path there, so modules import each other by their bare names.

A system's module has a class `System`, made with the options of `runner.Options`; see `runner.System`.
"""
