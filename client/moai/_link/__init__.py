"""The link: a small process that keeps one SSH connection and agent channel per host.

``holder`` is that process, ``client`` finds or starts it, ``upstream`` is what it holds. Commands
speak gRPC to its Unix socket; it forwards calls without looking into them.
"""
