"""What binds a state: its look-back period, cap, currency and label delay; not which windows are read from it."""

from typing import Any

import msgspec
import pytest

from app.errors import SettingsError
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.reserved_rows import POSITION_KEY, StatePosition
from app.stages.state_settings import state_settings, terminal_settings
from tests.fakes import Rows

#: As the release before wrote them.
CARDS = (
    "windows=1h,1d,7d,30d allowed_lateness=1d max_entries_per_key=20000 currency=EUR features=basic"
)
TERMINALS = f"{CARDS} label_delay=7d"
BEFORE_SETS = CARDS.removesuffix(" features=basic")


def made(**fields: Any) -> Settings:
    return Settings(_env_file=None, **{"features": "basic", **fields})  # type: ignore[call-arg]


def stored(text: str, now: str) -> StatePosition:
    body = msgspec.msgpack.encode((text, {0: 7}, {}))
    return StatePosition.read(Rows({POSITION_KEY: (5).to_bytes(8, "big") + body}), now)


def check(text: str, now: str) -> None:
    stored(text, now).check("t/0", now, log_end=6, log_start=0, start=6)


ACCEPTED = [
    {},
    {"windows": "1m,1h,12h,1d,7d,30d"},
    {"windows": "30d"},
    {"features": "basic,handbook"},
    {"features": "basic,amount_over_card_median"},
    {"features": "basic,label_free"},
]
REFUSED = [
    ({"windows": "1h,60d"}, "look-back 31d .*, but the settings are look-back 61d"),
    ({"windows": "1h,1d"}, "look-back 31d .*FRAUDSTREAM_WINDOWS"),
    ({"allowed_lateness": "2d"}, "look-back 31d .*, but the settings are look-back 32d"),
    ({"max_entries_per_key": 17}, "MAX_ENTRIES_PER_KEY=20000, .*=17"),
    ({"currency": "USD"}, "CURRENCY=EUR, .*CURRENCY=USD"),
]


@pytest.mark.parametrize("fields", ACCEPTED)
@pytest.mark.parametrize("text", [CARDS, BEFORE_SETS, "now"])
def test_other_windows_and_features_go_on_with_a_state(text: str, fields: dict[str, Any]) -> None:
    settings = made(**fields)
    check(state_settings(made()) if text == "now" else text, state_settings(settings))
    before = {CARDS: TERMINALS, "now": terminal_settings(made())}.get(text, BEFORE_SETS)
    check(before, terminal_settings(settings))


@pytest.mark.parametrize(("fields", "told"), REFUSED)
@pytest.mark.parametrize("text", [CARDS, "now"])
def test_a_refusal_names_what_differs(text: str, fields: dict[str, Any], told: str) -> None:
    was = state_settings(made()) if text == "now" else text
    with pytest.raises(SettingsError, match=told) as caught:
        check(was, state_settings(made(**fields)))
    assert "FRAUDSTREAM_FEATURES=" not in str(caught.value)


@pytest.mark.parametrize("text", [TERMINALS, "now"])
def test_another_label_delay_is_refused(text: str) -> None:
    was = terminal_settings(made()) if text == "now" else text
    with pytest.raises(SettingsError, match="FRAUDSTREAM_LABEL_DELAY=7d"):
        check(was, terminal_settings(made(label_delay="8d")))


class TestHighAmounts:
    """A terminal's entries say which amounts were high only where a feature told: features may read that."""

    plain, marked = made(), made(features="basic,amount_over_card_median")
    reads = made(features="basic,engineered")

    def test_features_that_read_them_need_them_in_the_state(self) -> None:
        for was in (TERMINALS, terminal_settings(self.plain)):
            with pytest.raises(SettingsError, match="high-amounts no .FRAUDSTREAM_FEATURES"):
                check(was, terminal_settings(self.reads))
        now = terminal_settings(self.reads)
        check(TERMINALS.replace("=basic", "=engineered"), now)
        written = stored(terminal_settings(self.marked), now)
        written.advance(9, now)
        check(written.settings, now)

    def test_what_was_not_marked_once_stays_so(self) -> None:
        position = stored(terminal_settings(self.plain), terminal_settings(self.marked))
        position.advance(9, terminal_settings(self.marked))
        with pytest.raises(SettingsError, match="high-amounts no"):
            check(position.settings, terminal_settings(self.reads))

    def test_a_new_state_has_them(self) -> None:
        now = terminal_settings(self.reads)
        position = StatePosition.read(Rows(), now)
        position.advance(3, now)
        check(position.settings, now)


def test_a_set_that_this_release_does_not_have_is_named() -> None:
    with pytest.raises(SettingsError, match="FRAUDSTREAM_FEATURES=gone"):
        check(CARDS.replace("=basic", "=gone"), state_settings(made()))


def test_a_state_of_before_remembers_which_features_unnamed_messages_have() -> None:
    now = terminal_settings(made(windows="1m,1h,1d,7d,30d"))
    position = stored(TERMINALS.replace("=basic", "=basic,handbook"), now)
    position.advance(8, now)
    again = StatePosition.decode(position.encode()[1] or b"", now)
    assert again.unnamed == "v1-1h-1d-7d-30d+handbook@1-delay7d"
    assert again.settings == terminal_settings(made())


def test_rows_keep_the_same_hash_whichever_windows_are_read() -> None:
    other = made(windows="1m,1h,1d,7d,30d", features="basic,handbook")
    assert row_rules(other) == row_rules(made())
    assert terminal_rules(other) == terminal_rules(made())


def test_a_state_of_the_former_defaults_is_told_how_to_stay_as_it_is() -> None:
    now = made(features="engineered,label_free")
    shape = terminal_settings(now)
    with pytest.raises(
        SettingsError, match="FRAUDSTREAM_FEATURES=basic FRAUDSTREAM_MODEL=default@1"
    ):
        stored(terminal_settings(made()), shape).check(
            "t/0", shape, log_end=6, log_start=0, start=6, model=now.model
        )
