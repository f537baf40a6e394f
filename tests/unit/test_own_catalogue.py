"""Fields and features of a deployment's own file: through both stages, rows, Cassandra and `verify`."""

from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from app.cassandra.schema_migration import dry_run
from app.domain.features.own_features import OwnField, parse_own
from app.errors import SettingsError
from app.settings import Settings, load_settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.deployed_features import catalogue_of
from app.stages.reserved_rows import StatePosition
from app.stages.state_settings import state_settings, terminal_settings
from app.wire.own_features_file import own_of
from tests.builders import tx_bytes
from tests.verify_world import VerifyWorld

FILE = """
[fields.merchant_category]
type = "text"
default = "unknown"
meaning = "what the shop sells"

[fields.installments]
type = "integer"
default = 1

[fields.card_present]
type = "boolean"
default = true

[fields.distance]
type = "number"
default = 0.0

[features.card_distinct_merchant_categories]
of = "card"
compute = "distinct"
field = "merchant_category"
windows = ["7d", "1h"]
phrase = "{value} merchant categories of this card within {window}"

[features.card_same_category_share]
of = "card"
compute = "share"
field = "merchant_category"
windows = ["1d"]

[features.card_gambling_count]
of = "card"
compute = "count"
field = "merchant_category"
equals = "gambling"
windows = ["1m", "30d"]

[features.terminal_absent_share]
of = "terminal"
compute = "share"
field = "card_present"
equals = false
windows = ["1d"]

[features.terminal_distinct_installments]
of = "terminal"
compute = "distinct"
field = "installments"
windows = ["7d"]
"""
CATEGORIES = ("books", "food", "gambling", "ünïcode", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(FILE)
    return file


def settings_of(path: Path, **fields: Any) -> Settings:
    return Settings(_env_file=None, catalogue_file=path, **fields)  # type: ignore[call-arg]


def drawn(rng: Random, number: int) -> tuple[bytes, bytes]:
    card = f"c{rng.randrange(4)}"
    own: dict[str, Any] = {}
    if rng.random() < 0.8:
        own["merchant_category"] = rng.choice((*CATEGORIES, None))
    if rng.random() < 0.6:
        own["installments"] = rng.choice((1, 3, -(2**63), 2**62))
    if rng.random() < 0.6:
        own["card_present"] = rng.random() < 0.5
    if rng.random() < 0.6:
        own["distance"] = rng.choice((0, 7, 1.5, -0.0, 1e300))
    at = number * 20_000 - rng.choice((0, 0, 5_000, 90_000_000))
    record = tx_bytes(number, card=card, terminal=rng.choice(("t1", "t2", None)), at=at, **own)
    return record, card.encode()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [1, 9])
def test_verify_recomputes_them_from_raw_transactions(path: Path, seed: int, block: int) -> None:
    """Late, repeated and reused ids among them; caps so small that entries leave, and segments are made."""
    rng = Random(seed)
    world = VerifyWorld(catalogue_file=path, max_future_skew="1d", features="basic,handbook")
    for number in range(120):
        record, key = drawn(rng, number if rng.random() < 0.9 else rng.randrange(number + 1))
        world.send(record, key)
        if number % 40 == 17:
            world.run(block)
    world.run(block)
    report = world.verify()
    assert report.passed, report.as_json()
    assert report.counts["scored"] > 60
    names = catalogue_of(world.settings).names
    for record in world.log(world.topics.predictions):
        assert tuple(orjson.loads(record.value or b"")["features"]) == names


def test_what_they_are(path: Path) -> None:
    world = VerifyWorld(catalogue_file=path, max_future_skew="1d")
    said = ["books", "books", "gambling", None, "gambling"]
    for number, category in enumerate(said):
        world.send(tx_bytes(number, at=number * 1_000, merchant_category=category), b"c1")
    world.run()
    found = [orjson.loads(r.value or b"") for r in world.log(world.topics.predictions)]
    features = [fields["features"] for fields in found]
    assert [f["card_distinct_merchant_categories_7d"] for f in features] == [1, 1, 2, 3, 3]
    assert [f["card_same_category_share_1d"] for f in features] == [1, 1, 1 / 3, 1 / 4, 2 / 5]
    assert [f["card_gambling_count_30d"] for f in features] == [0, 0, 1, 1, 2]
    assert "card_distinct_merchant_categories_7d@" in found[0]["feature_schema"]
    assert [row.own[0] for row in world.rows] == [
        "books",
        "books",
        "gambling",
        "unknown",
        "gambling",
    ]
    assert not any("merchant" in (row.extra or "") for row in world.rows)


@pytest.mark.parametrize(
    ("fault", "what"),
    [("column", "schema_version and extra"), ("feature", "card_distinct_merchant_categories_7d")],
)
def test_verify_finds_what_is_wrong(path: Path, fault: str, what: str) -> None:
    world = VerifyWorld(catalogue_file=path)
    world.send(tx_bytes(1, merchant_category="books"), b"c1")
    world.run()
    if fault == "column":
        world.rows[0] = world.rows[0]._replace(own=("food", *world.rows[0].own[1:]))
    else:
        topic = world.topics.predictions
        fields = orjson.loads(world.log(topic)[0].value or b"")
        fields["features"][what] = 2.0
        world.change(topic, 0, value=orjson.dumps(fields))
    report = world.verify()
    assert not report.passed
    assert what in {example["what"] for example in report.examples}


@pytest.mark.parametrize(
    "wrong",
    [
        {"merchant_category": 5}, {"merchant_category": "a\0"}, {"merchant_category": "x" * 1_025},
        {"installments": "3"}, {"installments": 1.5}, {"installments": True}, {"installments": 2**63},
        {"card_present": 1}, {"distance": "far"},
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_dead_lettered(path: Path, wrong: dict[str, Any]) -> None:
    world = VerifyWorld(catalogue_file=path)
    world.send(tx_bytes(1, **wrong), b"c1")
    world.run()
    (letter,) = world.log(world.topics.dead_letters)
    assert dict(letter.headers)["reason"] == b"invalid_field"
    assert world.verify().passed


def test_what_is_hashed_or_masked_is_counted_as_it_is_stored(path: Path) -> None:
    world = VerifyWorld(
        catalogue_file=path,
        max_future_skew="1d",
        private_fields="merchant_category=hash",
        privacy_key="k" * 32,
    )
    for number, category in enumerate(["books", "food", "books", "4111111111111111"]):
        record = tx_bytes(number, at=number, merchant_category=category)
        world.send(record, b"c1")
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert [len(row.own[0]) for row in world.rows] == [32] * 4
    last = orjson.loads(world.log(world.topics.predictions)[-1].value or b"")
    assert last["features"]["card_distinct_merchant_categories_7d"] == 3.0


def test_a_state_has_the_fields_that_features_need(path: Path, tmp_path: Path) -> None:
    now = settings_of(path)
    assert row_rules(now).own == 1
    assert terminal_rules(now).own == 2
    assert "own_fields=merchant_category:text" in state_settings(now)
    assert "own_fields=card_present:boolean,installments:integer" in terminal_settings(now)
    before = state_settings(Settings(_env_file=None))  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="own-fields none .FRAUDSTREAM_CATALOGUE_FILE"):
        StatePosition(5, before).check("t/0", state_settings(now), log_end=6, log_start=0, start=6)
    more = tmp_path / "more.toml"
    more.write_text(
        FILE
        + """
        [features.card_food_share]
        of = "card"
        compute = "share"
        field = "merchant_category"
        equals = "food"
        windows = ["1d"]
        """
    )
    assert state_settings(settings_of(more)) == state_settings(now), "a field that is kept already"


def test_a_feature_may_be_added_to_a_field_that_the_state_has(path: Path, tmp_path: Path) -> None:
    world = VerifyWorld(catalogue_file=path, max_future_skew="1d")
    rng = Random(3)
    for number in range(20):
        world.send(*drawn(rng, number))
    world.run(scoring=False, sink=False)
    more = tmp_path / "more.toml"
    feature = (
        '[features.terminal_three]\nof = "terminal"\ncompute = "count"\nfield = "installments"\n'
    )
    more.write_text(FILE + feature + 'equals = 3\nwindows = ["7d"]\n')
    world.restart(catalogue_file=more)
    for number in range(20, 40):
        world.send(*drawn(rng, number))
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert len(report.details["feature_schemas"]) == 2


def test_migrate_adds_a_column_for_each_field(path: Path) -> None:
    of_all = set(dry_run(load_settings()))
    found = [line for line in dry_run(settings_of(path)) if line not in of_all]
    statements = [line for line in found if "ADD IF NOT EXISTS" in line]
    assert [line.rpartition("EXISTS ")[2] for line in statements] == 2 * [
        "merchant_category text;", "installments bigint;", "card_present boolean;", "distance double;",
    ]  # fmt: skip


def test_a_reason_is_said_in_the_deployments_words(path: Path) -> None:
    from app.domain.explanation import Explainer

    own = own_of(settings_of(path))
    name = "card_distinct_merchant_categories_7d"
    explainer = Explainer((name,), (1.0,), 2, own)
    assert explainer.reasons([5.0], [3.0]) == ["5 merchant categories of this card within 7d"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[fields.amount]\ntype='text'\ndefault=''", "fraudstream has a field of that name"),
        ("[fields.score]\ntype='text'\ndefault=''", "fraudstream has a field of that name"),
        (
            "[fields.Bad]\ntype='text'\ndefault=''",
            "fields.Bad: a name consists of lower-case letters",
        ),
        ("[fields.token]\ntype='text'\ndefault=''", "not a CQL keyword"),
        ("[fields.a]\ntype='date'\ndefault=''", "write one of text, integer, number, boolean"),
        ("[fields.a]\ntype='text'", "fields.a: default is missing"),
        ("[fields.a]\ntype='integer'\ndefault='x'", "the default 'x' is not of type integer"),
        ("[fields.a]\ntype='text'\ndefault=''\nsize=3", "fields.a: size is unknown"),
        ("[sets.a]\n", r"\[sets\] is unknown"),
        ("fields", "it is not TOML"),
        ("[features.f]\nof='card'\ncompute='distinct'\nfield='a'\nwindows=['1d']", "no field 'a'"),
        (
            "[fields.a]\ntype='number'\ndefault=1\n"
            "[features.f]\nof='card'\ncompute='distinct'\nfield='a'\nwindows=['1d']",
            "a is a number; only text, integer and boolean",
        ),
        (
            "[fields.a]\ntype='text'\ndefault=''\n"
            "[features.f]\nof='card'\ncompute='count'\nfield='a'\nwindows=['1 day']",
            "'1 day' is not a window",
        ),
        (
            "[fields.a]\ntype='text'\ndefault=''\n"
            "[features.f]\nof='card'\ncompute='count'\nfield='a'\nwindows=['60m']",
            "write 1h for 60m",
        ),
        (
            "[fields.a]\ntype='text'\ndefault=''\n"
            "[features.f_7d]\nof='card'\ncompute='count'\nfield='a'\nwindows=['1d']",
            "leave the window out of the name",
        ),
        (
            "[fields.a]\ntype='text'\ndefault=''\n"
            "[features.card_count]\nof='card'\ncompute='count'\nfield='a'\nwindows=['1d']",
            "fraudstream has a feature of that name",
        ),
        (
            "[fields.a]\ntype='text'\ndefault=''\n"
            "[features.f]\nof='card'\ncompute='count'\nfield='a'\nwindows=['1d']\nequals=3",
            "equals = 3 is not of type text",
        ),
        (
            "[fields.a]\ntype='text'\ndefault=''\n"
            "[features.f]\nof='card'\ncompute='count'\nfield='a'\nwindows=['1d']\nphrase='{x}'",
            "phrase may name",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=told) as caught:
        own_of(settings_of(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        own_of(settings_of(tmp_path / "none.toml"))


def test_a_version_follows_what_is_computed() -> None:
    text = '[fields.a]\ntype="text"\ndefault=""\n[features.f]\nof="card"\ncompute="{}"\nfield="a"\nwindows=["1d"]'
    one, other = (parse_own(text.format(c)).features[0].version for c in ("distinct", "share"))
    assert one != other
    assert OwnField("a", "boolean", default=True).code(True) == 1
