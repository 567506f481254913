import pytest

from catalog import watch
from penstock.errors import Unavailable
from penstock.postgres import connect


def test_a_catalog_that_is_lost_while_it_is_read_is_unavailable(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = connect(catalog, "tests")
    lost.close()
    monkeypatch.setattr(watch, "connect", lambda *_: lost)
    with pytest.raises(Unavailable):
        watch.watched(catalog)
