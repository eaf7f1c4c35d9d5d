from hypothesis import given
from hypothesis import strategies as st

from rag.core.types import Picture, Turn
from rag.nlp import budget


def count(text: str) -> int:
    """A token per three bytes."""
    return -(-len(text.encode("utf-8", "replace")) // 3)


def user(text: str) -> Turn:
    return Turn(role="user", content=text)


def assistant(text: str) -> Turn:
    return Turn(role="assistant", content=text)


def test_the_reply_gets_what_it_wants_up_to_a_third() -> None:
    assert budget.reply_tokens(8192, 100, 4096) == 100
    assert budget.reply_tokens(8192, None, 4096) == 512
    assert budget.reply_tokens(8192, 10**6, 1024) == 1024
    assert budget.reply_tokens(90, 512, 1024) == 30
    assert budget.reply_tokens(1, 512, 1024) == 1


@given(st.integers(0, 200_000), st.integers(1, 5000))
def test_prompt_and_reply_fit_even_if_ten_percent_were_not_counted(context: int, reply: int) -> None:
    room = budget.prompt_room(context, reply)
    assert room == 0 or room * 1.1 + reply <= context + 1


@given(st.text(), st.integers(-5, 60))
def test_a_cut_text_is_a_beginning_that_fits(text: str, room: int) -> None:
    cut = budget.cut_text(text, room, count)
    assert text.startswith(cut)
    assert count(cut) <= max(room, 0)
    if cut != text and room > 0 and len(cut) < room * 16:
        assert count(text[: len(cut) + 1]) > room


def test_a_long_text_is_not_counted_whole() -> None:
    seen: list[int] = []

    def counting(text: str) -> int:
        seen.append(len(text))
        return count(text)

    assert len(budget.cut_text("a" * 10**6, 100, counting)) == 300
    assert max(seen) <= 1600


@given(st.lists(st.integers(0, 50)), st.integers(-5, 200))
def test_what_is_placed_is_whole_best_first_and_fits(costs: list[int], room: int) -> None:
    taken = budget.place_whole(costs, room)
    assert taken == sorted(set(taken))
    assert sum(costs[index] for index in taken) <= max(room, 0)
    for index in set(range(len(costs))) - set(taken):
        before = sum(costs[i] for i in taken if i < index)
        assert before + costs[index] > room


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=40)), max_size=12), st.integers(-5, 100))
def test_history_keeps_the_latest_in_order_from_a_users_turn(turns: list[tuple[bool, str]], room: int) -> None:
    history = [user(text) if is_user else assistant(text) for is_user, text in turns]
    kept = budget.fit_history(history, room, count)
    assert sum(budget.turn_cost(turn, count) for turn in kept) <= max(room, 0)
    assert list(kept) == history[len(history) - len(kept) :]
    assert not kept or kept[0].role == "user"


def test_an_opener_is_left_out() -> None:
    assert budget.from_first_user([assistant("Hi!"), user("a"), assistant("b")]) == (user("a"), assistant("b"))
    assert budget.from_first_user([assistant("Hi!")]) == ()


def test_one_turn_too_long_ends_the_history() -> None:
    assert budget.fit_history([user("first"), user("x" * 10**6), user("last")], 50, count) == (user("last"),)


def test_pictures_take_their_share_of_the_room() -> None:
    seen = Turn(role="user", content="this?", pictures=(Picture(media_type="image/png", data=b"x"),) * 2)
    later = (Turn(role="assistant", content="a cat"), Turn(role="user", content="and that?"))
    assert budget.turn_cost(seen, len) == 5 + budget.TURN_TOKENS + 2 * budget.PICTURE_TOKENS
    assert budget.fit_history((seen, *later), 1000, len) == later[1:]
    assert budget.fit_history((seen, *later), 3000, len) == (seen, *later)
