"""The daemon on the container: a gRPC view of job folders, devices and environments.

Keeps no truth in memory: it may be killed at any moment and started again. Python 3.8+, run from its
own bundle. Imports of ours: ``moai_proto`` and the parts of ``moai_worker`` that define the folder.
"""

__version__ = "0.1.0"

#: Versions of the contract this agent speaks, both inclusive.
#: 2 came with the fields listed in the laptop's ``moai._skew``.
PROTOCOL_MIN = 1
PROTOCOL_MAX = 2
