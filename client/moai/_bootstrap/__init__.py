"""Bringing the agent to a container: the bundle that is made on the laptop.

``targets`` says what a container accepts, ``lockfile`` which wheels fit it, ``wheels`` fetches them,
``payload`` finds our own agent and worker files, ``archive`` writes and checks the archive format, and
``bundle`` puts them together. Imports are left to the caller: nothing is loaded here.
"""
