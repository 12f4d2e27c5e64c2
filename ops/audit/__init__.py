"""The audit: what the counter placed, what our database says became of it, and what the sandbox's
ledger shows, held against each other.

    facts.py     what is compared: plain records, whoever brought them
    sandbox.py   … from the sandbox, by HTTP, in pages
    database.py  … from our database, in one snapshot
    steps.py     each step once; the ledger's residue; slippage (rule 12)
    lanes.py     each user's orders one after another (rule 8)
    report.py    the findings, in numbers and examples
    run.py       the sequence of reads, and waiting

Everything that compares is pure. The reads come in an order that makes a running system look no
worse than it is: what was placed, then the database, then what was applied.
"""
