"""Objects travel from site to site: in pieces, once per site, and as a tree when many want the same.

``pull_core`` decides for the site that wants something, ``fanout_core`` for the one where it was made; ``site`` is the
shell around both, with ``connections`` and ``files``.  Served by the agent (``agent_site``) and, in a driver of a
cluster, by a thread (``driver_site``); a worker asks its agent.
"""
