"""Wrong usage of a run's commands; apart, so that a command line can name it at no cost."""


class UsageError(Exception):
    """What a command line asks for cannot be meant; options are spelled as there."""
