"""The command line: parse, call the public names of ``moai``, print, exit. No behaviour of its own."""
