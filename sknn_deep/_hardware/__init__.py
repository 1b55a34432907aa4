"""Devices, threads, matrix products, memory maps."""
