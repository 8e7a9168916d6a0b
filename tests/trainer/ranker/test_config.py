from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer.ranker.config import TOWERS, RankerSettings


@pytest.mark.parametrize("name", TOWERS)
def test_the_rankers_of_the_paper_have_names(name: str) -> None:
    hidden = RankerSettings.model_validate({"hidden": name}).hidden
    assert "-".join(map(str, hidden)) == ("" if name == "none" else name)


def test_widths_may_be_a_list() -> None:
    assert RankerSettings.model_validate({"hidden": [3, 2]}).hidden == [3, 2]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden", "257", "must be a list of widths or one of none, 256, 512, 1024"),
        ("positive_weights", "clicks", "Input should be 'watch_seconds', 'exact' or 'equal'"),
        ("depth", 3, "Extra inputs are not permitted"),
    ],
)
def test_invalid_settings_are_rejected(key: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RankerSettings.model_validate({key: value})
