import gc

import pytest

from gan_core.cli import without_garbage_collection


def test_what_is_made_within_is_never_looked_through():
    gc.collect()
    before = gc.get_freeze_count()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
            kept = [[number] for number in range(10_000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_an_error_within_leaves_the_search_on():
    with pytest.raises(ImportError), without_garbage_collection():
        raise ImportError
    gc.unfreeze()
    assert gc.isenabled()
