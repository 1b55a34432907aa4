"""Tests for a process of its own: elsewhere no device is simulated, and they are left out."""


def pytest_ignore_collect(config):
    return None if config.pluginmanager.has_plugin("tests.simulated_cuda.plugin") else True
