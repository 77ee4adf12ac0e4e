"""This machine and its processes: files, signals, memory, start-up, processes that decode.

Private. Nothing here imports JAX when it is imported: a command that only looks at a lock, and each
process that decodes pictures, start in a fraction of a second.
"""
