"""The models of a run in actors on a Ray cluster."""
