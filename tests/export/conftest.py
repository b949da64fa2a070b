"""What the tests of exported files share."""

import pytest

from exporting import tiny_exported
from headstart.system.backend import keras


@pytest.fixture(scope="session")
def network() -> keras.Model:
    """A small network as files hold it; to be read only."""
    return tiny_exported()
