"""Where rows run: Aer, snapshots, IBM's service, any vendor's backend; opened, surveyed, sent to.

May import `rows`, `devices`, `circuits`, `options`, `common`; knows nothing of engines and layers.
"""
