from pathlib import Path

import pytest

from rag.core.errors import InvalidInput
from rag.core.flags import FLAGS, Arms, Flag, Flags, parse_rule
from rag.core.settings import Settings, load_settings


def on(rule: object, flag: Flag = "fallback", *, tenant: str = "ann", session: str = "s") -> bool:
    return Flags({flag: rule}).arm(flag, tenant_id=tenant, session_id=session)


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_has_both_positions(flag: Flag) -> None:
    assert on("on", flag)
    assert on(True, flag)
    assert not on("off", flag)
    assert not on(False, flag)


def test_listed_tenants_have_it_and_no_others() -> None:
    assert on("tenants:ann, bob")
    assert on("tenants:ann, bob", tenant="bob")
    assert not on("tenants:ann,bob", tenant="eve")
    assert not on("tenants:ann", tenant="")


def test_a_share_is_as_large_as_it_says_and_stays() -> None:
    sessions = [f"session {number}" for number in range(10_000)]
    quarter = {session for session in sessions if on("share:25", session=session)}
    assert 2300 < len(quarter) < 2700
    assert quarter == {session for session in sessions if on("share:25", session=session)}
    assert quarter < {session for session in sessions if on("share:40", session=session)}
    other = {session for session in sessions if on("share:25", "summaries", session=session)}
    assert 450 < len(quarter & other) < 800, "flags must be split apart from each other"


def test_the_split_never_changes_between_versions() -> None:
    assert [on("share:50", session=session) for session in "abcdefgh"] == [
        False, True, False, False, True, False, False, False,
    ]  # fmt: skip


def test_a_call_without_a_session_goes_by_its_tenant() -> None:
    tenants = [f"tenant {number}" for number in range(1000)]
    assert 400 < sum(on("share:50", tenant=tenant, session="") for tenant in tenants) < 600


@pytest.mark.parametrize(
    "rule", ["", "yes", "tenants:", "tenants: ,", "share:", "share:101", "share:-1", "share:nan", 3]
)
def test_what_cannot_be_read_is_refused(rule: object) -> None:
    with pytest.raises(ValueError, match=r"write on, off|percent"):
        parse_rule(rule)


def test_settings_name_the_value_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="PARLEY_FEATURES__FALLBACK: .*write on, off"):
        load_settings(environ={"PARLEY_FEATURES__FALLBACK": "maybe"}, env_file=tmp_path / "none")


def test_yaml_words_for_on_and_off_are_read(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text("features: {fallback: off, prompt_caching: on, summaries: 'share:5'}")
    settings = load_settings(environ={"PARLEY_CONFIG": str(path)}, env_file=tmp_path / "none")
    assert settings.features.model_dump() == {
        "fallback": "off",
        "partial_tool_streaming": "off",
        "prompt_caching": "on",
        "summaries": "share:5",
    }


def test_the_arms_of_a_session_are_text_for_its_usage_rows() -> None:
    flags = Flags(Settings().features.model_dump() | {"fallback": "tenants:ann"})
    assert flags.arms(tenant_id="ann", session_id="s") == Arms(fallback=True, summaries=True, prompt_caching=True)
    text = flags.arms(tenant_id="bob", session_id="s").text
    assert text == "fallback=off,partial_tool_streaming=off,prompt_caching=on,summaries=on"
