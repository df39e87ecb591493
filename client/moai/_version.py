"""The version of moai; the agent that travels with it has the same."""

__version__ = "0.1.0"
