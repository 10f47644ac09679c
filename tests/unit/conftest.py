"""An encoder folder and a project of two small tasks."""

import pytest

from tests.reference.project import WORDS, Project, save_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A folder with a tokenizer and a configuration of 64 positions."""
    return save_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


@pytest.fixture
def project(tmp_path):
    """Definitions and rows of two tasks, in a folder of their own."""
    return Project(tmp_path)
