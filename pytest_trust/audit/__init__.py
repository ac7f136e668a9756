"""One run: plan, acquire, judge, compare, decide. Nothing here imports pytest."""
