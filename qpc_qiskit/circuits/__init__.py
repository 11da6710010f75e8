"""The circuit of a kernel: encoder, ansatz, observables, and the numbers that they are made of.

May import `options` and `common`; knows nothing of devices.
"""
