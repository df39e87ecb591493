"""Code that outlives the agent: the supervisor of a job and the steps it runs.

Standard library only at import, Python 3.8+. The supervisor runs on the agent's Python with
``-I -S``; the steps run on the interpreter of the user's environment. Nothing here may import
``moai_agent``, ``moai_proto`` or grpc.
"""
