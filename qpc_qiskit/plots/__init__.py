"""How figures and HTML pages look; what they show is said elsewhere.

May import `options` and `common`.
"""
