"""Batches, closed-form gradients, optimisers: what moves the weights."""
