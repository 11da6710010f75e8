"""Calls that another process can import."""

import os
import signal


class Odd(Exception):
    """Cannot be made anew from what it was made of."""

    def __init__(self, one, two):
        super().__init__(one)


def square(number):
    """Its square; 0 ends its process, and negative numbers are errors."""
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == -1:
        raise ValueError("negative")
    if number == -2:
        raise Odd("odd", 2)
    return number**2


def process_of(_):
    return os.getpid()
