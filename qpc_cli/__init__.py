"""The command line, `qpc`: reads words, asks the packages, prints what they say.

The only place that imports all of `hardware_runs`, `noise_models` and `qpc_qiskit`; nothing imports
it. A command is a module, named in `app`; heavy libraries are loaded inside commands, once their
words are known to be right.
"""
