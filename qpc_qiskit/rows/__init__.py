"""Numbers to PUBs and back: a pixel of a kernel is a row of parameter values of one circuit.

May import `devices`, `circuits`, `options` and `common`; sends nothing.
"""
