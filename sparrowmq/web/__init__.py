"""The live page: one read-only screen on which people see a cluster work, fail and heal (extra ``web``).

Owns: what is on the page. Must not know: how the cluster decides anything. `view` and the rooms it is made of are pure:
readings and a time in, one snapshot out. `feed` reads, `app` answers, `server` listens.
"""
