"""Well-known data sets: files of their shape become records and labels by the name of a recipe alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from app.cli.command_errors import run
from app.cli.file_options import read_as
from app.errors import UsageError
from app.ops.files.columns import FileOptions
from app.ops.files.dataset_recipes import RECIPES, recognised
from app.ops.files.label_file import open_labels
from app.ops.files.transaction_file import TransactionPass, open_reading
from app.ops.train_from_files import read_labelled
from app.settings import load_settings
from app.wire.input_records import RecordRules, parse_transaction

SAMPLES = Path(__file__).parents[1] / "samples"
ROWS = 36
#: Refunds are negative, which the stream takes only by a setting.
REFUNDS = {"tabformer": 2}
FRAUDS = {"handbook": 2, "sparkov": 3, "tabformer": 3, "paysim": 3, "ieee-cis": 2, "creditcard": 2}
RULES = RecordRules("EUR", 2, 0)


def options(name: str, **given: object) -> FileOptions:
    every = {
        "recipe": name, "assume_zone": None, "ambiguous": "refuse", "time_format": None, "time_unit": None,
        "time_origin": None, "round_amounts": False, **given,
    }  # fmt: skip
    mapping = every.pop("mapping", {})
    return read_as(every, mapping, load_settings(), "fraudstream produce {file}")  # type: ignore[arg-type]


def records(
    path: Path, name: str, **given: object
) -> tuple[list[dict], list[bytes], TransactionPass]:
    how = options(name, **given)
    with open_reading(path, how, rules=RULES, skip_bad=True, label="") as reading:
        items = list(reading.labelled())
    assert sum(fraud for *_, fraud in items) == FRAUDS[name]
    return (
        [json.loads(value) for _key, value, _ms, _fraud in items],
        [k for k, *_ in items],
        reading,
    )


def test_each_recipe_has_a_sample():
    assert {path.stem for path in SAMPLES.glob("*.csv")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_transactions_that_the_stream_takes(name):
    path = SAMPLES / f"{name}.csv"
    found, keys, reading = records(path, name)
    assert len(found) == ROWS - REFUNDS.get(name, 0)
    assert reading.bad == REFUNDS.get(name, 0)
    ids = [record["transaction_id"] for record in found]
    assert len(set(ids)) == len(ids)
    assert keys == [record["card_id"].encode() for record in found]
    times = [
        parse_transaction(json.dumps(record).encode(), key, 1 << 62, RULES).event_time_ms
        for record, key in zip(found, keys, strict=True)
    ]
    assert times == sorted(times)
    # nothing that tells what is fraud
    for record in found:
        assert not {RECIPES[name].label, *RECIPES[name].unused}.intersection(record)
    assert RECIPES[name].label not in reading.answers  # it is sent as labels


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_recipe_reads_other_formats_of_the_same_data(tmp_path, name, suffix):
    csv = SAMPLES / f"{name}.csv"
    table = pyarrow.csv.read_csv(csv)
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()))
    first, second = (records(each, name)[0] for each in (csv, path))
    compared = ("terminal_id",) if name == "creditcard" else ("card_id", "terminal_id")
    for name_of_field in compared:  # cards of creditcard are made of the file's content
        ours, theirs = ([row.get(name_of_field) for row in rows] for rows in (first, second))
        assert ours == theirs
    assert [float(row["amount"]) for row in first] == [float(row["amount"]) for row in second]


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_that_is_recognised_is_named_with_the_command(tmp_path, name):
    path = tmp_path / "my file.csv"
    shutil.copy(SAMPLES / f"{name}.csv", path)
    with pytest.raises(UsageError) as caught, open_reading(path):
        pass
    command = f"fraudstream produce '{path}' --recipe {name}"
    assert str(caught.value).endswith(f"it looks like {RECIPES[name].title}: {command}")


def test_train_names_its_own_command(capsys):
    path = SAMPLES / "paysim.csv"
    assert run(["train", "--from-file", str(path), "--label", "isFraud"]) == 2
    error = capsys.readouterr().err
    assert f"fraudstream train --from-file {path} --recipe paysim" in error
    assert error.count("\n") == 1


def test_recipes_do_not_recognise_each_other_or_our_own_files():
    assert recognised(("transaction_id", "card_id", "amount", "event_time", "is_fraud")) is None
    for name, recipe in RECIPES.items():
        assert recognised([*recipe.columns, "more"]) is RECIPES[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_for_training(name):
    got = read_labelled(
        SAMPLES / f"{name}.csv", load_settings(), options(name), skip_bad=name in REFUNDS
    )
    assert len(got) == ROWS - REFUNDS.get(name, 0)
    assert got.bad + got.refunds == REFUNDS.get(name, 0)  # by a setting
    assert int(np.sum(got.is_fraud)) == FRAUDS[name]


@pytest.mark.parametrize("name", RECIPES)
def test_labels_alone_are_of_the_same_transactions(name):
    path = SAMPLES / f"{name}.csv"
    transactions, *_ = records(path, name)
    with open_labels(path, options(name), now_ms=1_900_000_000_000) as reading:
        labels = [json.loads(value) for _key, value in reading.pairs()]
    assert {each["transaction_id"] for each in labels} >= {
        each["transaction_id"] for each in transactions
    }
    assert sum(each["is_fraud"] for each in labels) == FRAUDS[name]


def test_generated_ids_are_those_of_the_rows_whatever_part_of_the_file_is_sent(tmp_path):
    path = SAMPLES / "paysim.csv"
    whole, *_ = records(path, "paysim")
    with open_reading(path, options("paysim"), rules=RULES, skip=10, limit=3) as reading:
        part = [json.loads(value) for _key, value in reading.pairs()]
    assert part == whole[10:13]
    renamed = tmp_path / "other.csv"
    shutil.copy(path, renamed)
    assert records(renamed, "paysim")[0] == whole
    other = tmp_path / "paysim.csv"
    other.write_text(path.read_text().replace("PAYMENT", "DEBIT"))
    ids = {record["transaction_id"] for record in records(other, "paysim")[0]}
    assert ids.isdisjoint(record["transaction_id"] for record in whole)


def test_times_count_from_an_origin():
    path = SAMPLES / "paysim.csv"
    first = records(path, "paysim")[0]
    assert first[0]["event_time"] == "2020-01-01T00:00:00.000Z"  # step 1 is the first hour
    assert first[6]["event_time"] == "2020-01-01T01:00:00.000Z"
    moved = records(path, "paysim", time_origin="2024-05-01")[0]
    assert moved[0]["event_time"] == "2024-05-01T00:00:00.000Z"


def test_tabformers_parts_are_joined_and_refunds_keep_their_sign():
    rows = (SAMPLES / "tabformer.csv").read_text().splitlines()[1:]
    record = records(SAMPLES / "tabformer.csv", "tabformer")[0][0]
    user, card, year, month, day, time, amount, *_ = rows[0].split(",")
    assert record["card_id"] == f"{user}-{card}"
    assert record["event_time"] == f"{year}-{int(month):02}-{int(day):02}T{time}Z"
    assert record["amount"] == float(amount.removeprefix("$"))
    assert not {"User", "Card", "Year", "Month", "Day", "Time"}.intersection(record)
    assert {"Use Chip", "MCC", "Merchant City"} <= record.keys()
    with (
        open_reading(SAMPLES / "tabformer.csv", options("tabformer"), rules=RULES) as reading,
        pytest.raises(UsageError, match="line 7, amount is negative"),
    ):
        list(reading.pairs())


def test_a_part_of_a_recipe_can_be_replaced():
    found = records(SAMPLES / "sparkov.csv", "sparkov", mapping={"terminal_id": "category"})[0]
    assert {record["terminal_id"] for record in found} <= {
        "misc_net",
        "grocery_pos",
        "gas_transport",
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            ["--recipe", "kaggle"],
            "--recipe kaggle is unknown; choose one of handbook, sparkov, tabformer,",
        ),
        (["--recipe", "paysim"], "--recipe paysim: sparkov.csv has no column"),
        (
            ["--recipe", "sparkov", "--time-origin", "2024-01-01"],
            "--time-origin needs --recipe",
        ),
        (["--time-origin", "2024-01-01"], "--time-origin needs --recipe"),
        (["--recipe", "sparkov", "--time-format", "%Q"], "--time-format %Q: "),
        (
            ["--time-format", "%Y", "--time-unit", "s"],
            "give --time-format or --time-unit, not both",
        ),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, given, text):
    shutil.copy(SAMPLES / "sparkov.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(["produce", "sparkov.csv", *given]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
