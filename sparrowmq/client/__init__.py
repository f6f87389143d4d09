"""The Python API: clients, futures and jobs over the client session machine."""
