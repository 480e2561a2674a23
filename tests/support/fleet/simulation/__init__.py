"""A fleet in simulated time: the real control processes of edges on a simulated network.

SimPy (https://simpy.readthedocs.io) keeps the time. Each edge runs the real follower, publisher,
presence reporter and invalidation index on an event loop of its own (``loop``), whose clock drifts
and which can be stopped. Engine, network, caches, viewers and operators are models.
"""
