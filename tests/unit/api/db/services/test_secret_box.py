import pytest

from api.db.services.secret_box import SecretBox
from rag.core.errors import StoreError

SECRET, OTHER = "s" * 43, "o" * 43
KEY = "sk-not-for-anybody"


def test_what_is_sealed_opens_for_its_owner_only() -> None:
    box = SecretBox(SECRET)
    sealed = box.seal(KEY, owner="ann/OpenAI")
    assert KEY not in sealed
    assert box.open(sealed, owner="ann/OpenAI").get_secret_value() == KEY
    for thief in ("bob/OpenAI", "ann/Groq", ""):
        with pytest.raises(StoreError, match="somebody else"):
            box.open(sealed, owner=thief)


def test_the_same_text_is_sealed_differently_each_time() -> None:
    box = SecretBox(SECRET)
    assert len({box.seal(KEY, owner="a") for _ in range(20)}) == 20


def test_another_secret_says_what_to_do() -> None:
    sealed = SecretBox(SECRET).seal(KEY, owner="a")
    with pytest.raises(StoreError, match="PARLEY_AUTH__SECRET") as caught:
        SecretBox(OTHER).open(sealed, owner="a")
    assert SECRET not in str(caught.value)
    assert OTHER not in str(caught.value)


def test_a_former_secret_opens_and_the_present_one_seals() -> None:
    before = SecretBox(SECRET).seal(KEY, owner="a")
    box = SecretBox(OTHER, SECRET)
    assert box.open(before, owner="a").get_secret_value() == KEY
    after = box.seal(KEY, owner="a")
    assert SecretBox(OTHER).open(after, owner="a").get_secret_value() == KEY
    with pytest.raises(StoreError):
        SecretBox(SECRET).open(after, owner="a")


@pytest.mark.parametrize(
    "content", ["", "v1", "v1.zz.", "v2.{id}.{body}", "v1.{id}.", "v1.{id}.!!", "v1.{id}.{body}AAAA"]
)
def test_damage_is_told(content: str) -> None:
    box = SecretBox(SECRET)
    _, key_id, body = box.seal(KEY, owner="a").split(".")
    with pytest.raises(StoreError, match="set the key again|Set the key again"):
        box.open(content.replace("{id}", key_id).replace("{body}", body), owner="a")


def test_each_bit_counts() -> None:
    box = SecretBox(SECRET)
    sealed = box.seal(KEY, owner="a")
    for place in range(len("v1.12345678."), len(sealed) - 4):
        other = "A" if sealed[place] != "A" else "B"
        with pytest.raises(StoreError):
            box.open(sealed[:place] + other + sealed[place + 1 :], owner="a")


def test_an_opened_key_does_not_show() -> None:
    box = SecretBox(SECRET)
    assert KEY not in repr(box.open(box.seal(KEY, owner="a"), owner="a"))
