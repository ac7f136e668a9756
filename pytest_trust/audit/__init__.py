"""One run: plan, acquire, judge, compare, decide. Free of pytest."""
