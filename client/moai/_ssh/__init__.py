"""From the name of a host to an authenticated SSH connection that runs commands.

``resolve`` reads the user's SSH configuration, ``known_hosts`` judges host keys as OpenSSH does,
``connect`` and ``auth`` make a paramiko connection, ``openssh`` runs the user's own ``ssh`` instead,
``fabric_host`` gives scripts a Fabric connection on top. ``seam`` is what the rest of the laptop sees:
nothing outside this package imports paramiko or fabric. Nothing is imported here, because paramiko
costs a tenth of a second that most commands do not need.
"""
