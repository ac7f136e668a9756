"""Runs the models in actors on a Ray cluster."""
