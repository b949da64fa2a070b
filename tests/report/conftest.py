import pytest

from helpers import real_charts


@pytest.fixture(autouse=True)
def charts():
    """Tests of the report draw what they look at."""
    with real_charts():
        yield
