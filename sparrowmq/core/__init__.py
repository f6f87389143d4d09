"""The state machines: scheduler, node monitor, client session. No I/O, no clock, no global state."""
