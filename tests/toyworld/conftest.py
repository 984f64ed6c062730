import pytest

from negguide import toyworld


@pytest.fixture(scope="session")
def toyworld_pipeline():
    """The shipped text-to-image model; tests leave it as it is."""
    pipe = toyworld.load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe
