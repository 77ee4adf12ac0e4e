"""Private support for the machine and its processes.

The modules deal with files, signals, memory, start-up, and processes that decode pictures. None but
`cluster` imports JAX when it is imported. Thus a command that only checks a lock, and each process
that decodes pictures, starts in a fraction of a second.
"""
