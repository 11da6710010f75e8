"""What a run did: read from its ledger, scored, drawn, written as one page.

May import every other room of this package; nothing in it is imported by them.
"""
