"""Figures as ratios against a floor that is measured in the same run: `python -m benchmarks
overhead|burst|decode|ingest|gaps [--json]`.
"""
