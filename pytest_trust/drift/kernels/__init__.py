"""Divergences of two sets of logits, in torch, C and Triton."""
