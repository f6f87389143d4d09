"""Measurements: throughput, latency, placement against an ideal queue, memory, faults, other systems; and the demos.

Owns: what is measured and how. Must not know: how the cluster works inside; it is used as any program uses it.
"""
