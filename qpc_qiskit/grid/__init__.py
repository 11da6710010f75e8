"""What experiments and noise studies share: many trainings or evaluations, which can be resumed.

executors.py   where calls are run: in this process, in others, on a Dask cluster
locking.py     one process at a time in a folder
running.py     calls that take folders no other process holds; the images of a call
statistics.py  intervals and paired tests over seeds

May import trainings and all below them; knows neither experiments nor noise.
"""
