"""Batches, closed-form gradients, optimisers: what updates the weights."""
