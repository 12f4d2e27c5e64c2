"""Seals over what was appended to the tables of `ops/history.py`: a chain of hashes whose newest
root is known outside the database, so that a rewritten past shows (docs/decisions/0021).

`sealing.py` makes one, `verify.py` holds the chain against the rows.
"""
