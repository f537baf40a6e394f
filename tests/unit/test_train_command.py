"""`fraudstream train` and `fraudstream models`, and the labelled files that are trained on."""

import json
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from app.cli.command_errors import run
from app.errors import UsageError
from app.lab.simulation.arrivals import deliver
from app.lab.simulation.files import write_deliveries
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.files.amount_rounding import Rounding
from app.ops.files.columns import FileOptions
from app.ops.files.dataset_recipes import RECIPES
from app.ops.files.file_times import TimeRules
from app.ops.train_from_files import read_labelled
from app.settings import load_settings
from app.stages.deployed_features import catalogue_of
from models.artifact_folders import artifact_folders
from models.model_loader import ModelHolder

MAPPING = RECIPES["handbook"].mapping
HANDBOOK_OPTIONS = FileOptions(mapping=MAPPING, times=TimeRules(ZoneInfo("UTC")))
CONFIG = SimulationConfig(cards=60, terminals=40, days=60, start_ms=1_735_689_600_000, seed=3)
ROOT = Path(__file__).resolve().parents[2]
HANDBOOK = (
    "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO\n"
    "0,2018-04-01 00:00:31,596,3156,57.16,0,0\n"
    "1,2018-04-01 00:02:10,4961,,81.5,1,2\n"
)


@pytest.fixture(scope="module")
def drawn():
    return simulate(CONFIG)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def json_of(capsys, *args):
    assert run([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fault(capsys, *args):
    assert run(list(args)) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("fraudstream: ").strip()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl.gz", ".parquet"])
def test_a_simulated_file_is_read_back(drawn, tmp_path, suffix):
    part = drawn.take(slice(0, 300))
    path = tmp_path / f"history{suffix}"
    write_deliveries(path, deliver(part))
    got = read_labelled(path, load_settings())
    for column in ("transaction_id", "card_id", "terminal_id", "amount_minor", "event_time_ms"):
        np.testing.assert_array_equal(getattr(got, column), getattr(part, column))
    np.testing.assert_array_equal(got.is_fraud, part.is_fraud)


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl", ".parquet"])
def test_several_processes_read_the_same(drawn, tmp_path, monkeypatch, suffix):
    path = tmp_path / f"history{suffix}"
    write_deliveries(path, deliver(drawn.take(slice(0, 3_000))))
    alone = read_labelled(path, load_settings())
    monkeypatch.setattr("app.ops.train_from_files._ALONE_BYTES", 0)
    monkeypatch.setattr("app.ops.train_from_files._CHUNK_ROWS", 700)
    told: list[int] = []
    together = read_labelled(path, load_settings(), cores=2, progress=told.append)
    for column in ("transaction_id", "card_id", "terminal_id", "amount_minor", "event_time_ms"):
        ours, theirs = getattr(together, column), getattr(alone, column)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(together.is_fraud, alone.is_fraud)
    assert told == sorted(told)
    assert len(told) == 5


@pytest.mark.parametrize("cores", [1, 2])
def test_the_first_fault_is_told_whoever_finds_it(tmp_path, monkeypatch, cores):
    monkeypatch.setattr("app.ops.train_from_files._ALONE_BYTES", 0)
    monkeypatch.setattr("app.ops.train_from_files._CHUNK_ROWS", 3)
    rows = [f"{number},2018-04-01 00:00:{number:02d},596,3156,57.16,0" for number in range(12)]
    header = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD"

    def told(*, wrong: dict[int, str]) -> str:
        path = tmp_path / "handbook.csv"
        lines = [wrong.get(number, row) for number, row in enumerate(rows)]
        path.write_text("\n".join([header, *lines]) + "\n")
        with pytest.raises(UsageError) as caught:
            read_labelled(path, load_settings(), HANDBOOK_OPTIONS, cores=cores)
        return str(caught.value).replace(str(path), path.name)

    amount = rows[4].replace("57.16", "57.161")
    assert told(wrong={4: amount}).startswith("handbook.csv, line 6, amount")
    short, unlabelled = "10,2018-04-01 00:00:10", rows[1].removesuffix("0") + "perhaps"
    assert "handbook.csv, line 6, amount" in told(wrong={4: amount, 5: short, 10: short})
    assert "handbook.csv, line 7, 2 columns" in told(wrong={5: short, 9: amount})
    assert "handbook.csv, line 3, column TX_FRAUD" in told(wrong={1: unlabelled, 2: short})


def test_refunds_are_not_learned_from(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(HEAD + GOOD + GOOD.replace("t1", "t2").replace("5.00", "-5.00"))
    got = read_labelled(path, load_settings())
    assert (len(got), got.refunds, got.bad) == (1, 1, 0)
    with pytest.raises(UsageError, match="line 3, amount is negative"):
        read_labelled(path, load_settings({"refunds": "dead"}))


@pytest.mark.parametrize("cores", [1, 2])
def test_malformed_rows_can_be_left_out_and_are_counted(tmp_path, monkeypatch, cores):
    monkeypatch.setattr("app.ops.train_from_files._ALONE_BYTES", 0)
    monkeypatch.setattr("app.ops.train_from_files._CHUNK_ROWS", 3)
    rows = [GOOD.replace("t1", f"t{number}") for number in range(12)]
    rows[4] = rows[4].replace("5.00", "5.001")
    rows[7] = "t7,c1\n"
    rows[9] = rows[9].replace("Z,0", "Z,maybe")
    path = tmp_path / "history.csv"
    path.write_text(HEAD + "".join(rows))
    with pytest.raises(UsageError, match=r"line 6, amount .*\(--skip-bad skips such rows\)"):
        read_labelled(path, load_settings(), cores=cores)
    got = read_labelled(path, load_settings(), skip_bad=True, cores=cores)
    assert got.transaction_id.tolist() == [f"t{n}" for n in range(12) if n not in {4, 7, 9}]
    assert got.bad == 3
    assert got.first_bad.startswith(f"{path}, line 6, amount")


def test_columns_may_have_other_names(tmp_path):
    path = tmp_path / "handbook.csv"
    path.write_text(HANDBOOK)
    got = read_labelled(path, load_settings(), HANDBOOK_OPTIONS)
    assert got.card_id.tolist() == ["596", "4961"]
    assert got.terminal_id.tolist() == ["3156", ""]
    assert got.amount_minor.tolist() == [5716, 8150]
    assert got.event_time_ms.tolist() == [1_522_540_831_000, 1_522_540_930_000]
    assert got.is_fraud.tolist() == [False, True]


def test_amounts_are_rounded_only_where_that_is_asked_for(tmp_path):
    path = tmp_path / "noise.csv"
    path.write_text(HEAD + GOOD + GOOD.replace("t1", "t2").replace("5.00", "85.64999999999999"))
    with pytest.raises(UsageError, match=r"line 3, amount 85.64999999999999 has more than 2"):
        read_labelled(path, load_settings())
    got = read_labelled(path, load_settings(), FileOptions(rounding=Rounding("EUR", 2)))
    assert got.amount_minor.tolist() == [500, 8565]
    assert got.rounded == 1


HEAD = "transaction_id,card_id,amount,event_time,is_fraud\n"
GOOD = "t1,c1,5.00,2024-05-01T12:00:00Z,0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD.replace("is_fraud", "maybe") + GOOD, "no label column is_fraud or TX_FRAUD"),
        (
            HEAD + GOOD + GOOD.replace(",0\n", ",2\n"),
            "line 3, column is_fraud: '2' is not fraud or genuine",
        ),
        (HEAD + GOOD + GOOD.replace(",0\n", ",\n"), "line 3, column is_fraud: is empty"),
        (HEAD + GOOD.replace("5.00", "-5.00"), "contains no transactions: 1 refunds"),
        (HEAD + GOOD.replace("Z", ""), "line 2, column event_time:"),
        (HEAD, "contains no transactions"),
        (HEAD.replace("card_id", "card") + GOOD, "no column for card_id"),
    ],
)
def test_a_file_that_cannot_be_learned_from(tmp_path, text, words):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_labelled(path, load_settings())
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_train_from_a_file_then_list_and_show(drawn, tmp_path, home, capsys):
    path = tmp_path / "history.csv.gz"
    write_deliveries(path, deliver(drawn))
    made = json_of(capsys, "train", "--name", "shop", "--from-file", str(path))
    assert made["folder"] == str(home / "models" / "shop-1")
    assert made["version"] == 1
    assert made["trained"]["source"] == {"file": "history.csv.gz"}
    assert json_of(capsys, "train", "--name", "shop", "--from-file", str(path))["version"] == 2

    listed = json_of(capsys, "models")
    assert [(each["name"], each["version"]) for each in listed["models"]] == [
        ("default", 1),
        ("default", 2),
        ("engineered", 1),
        ("shop", 1),
        ("shop", 2),
    ]
    assert listed["used"] == "default"
    assert listed["models"][3]["hash"] == made["hash"]
    assert run(["models"]) == 0
    assert made["hash"] in capsys.readouterr().out

    assert json_of(capsys, "models", "show", "shop@1")["sha256"] == made["sha256"]
    assert run(["models", "show", "default"]) == 0
    assert "average precision" in capsys.readouterr().out


def test_train_on_a_simulation_reports_and_says_how_to_go_on(home, capsys):
    args = ["train", "--cards", "60", "--terminals", "40", "--days", "60", "--seed", "3"]
    assert run(args) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no bar without a terminal
    for words in ("average precision", "AUC ROC", "card precision@100", "calibration"):
        assert words in captured.out
    assert "`fraudstream models register fraud@1`" in captured.out
    assert "found of each kind of fraud" in captured.out


PERIODS = ("--train-from", "2025-01-05", "--train-to", "2025-02-10", "--test-to", "2025-02-25")
WORLD = ("--cards", "200", "--terminals", "100", "--days", "60", "--seed", "3")


@pytest.mark.parametrize("kind", ["histgb", "forest", "blend"])
def test_trees_learn_from_periods_with_anomaly_scores_and_are_drawn(
    home, tmp_path, capsys, monkeypatch, kind
):
    monkeypatch.setattr("models.training_candidates.HISTGB", ((8, 20, 0.1),))
    monkeypatch.setattr("models.training_candidates.FOREST_DEPTHS", (4,))
    monkeypatch.setattr("models.training_candidates.BLEND", ((8, 4, 8, 10, 0.1),))
    monkeypatch.setenv("FRAUDSTREAM_FEATURES", "basic,handbook,label_free")
    plots = tmp_path / "plots"
    args = ("--kind", kind, "--features", "handbook", "--anomaly", "--plots", str(plots))
    made = json_of(capsys, "train", *WORLD, *PERIODS, *args)
    assert made["feature_schema"] == "handbook@1-delay7d"
    assert len(made["features"]) == 15
    facts = made["trained"]
    assert facts["learned_from"].startswith("2025-01-05T0")
    assert facts["chosen_from"].startswith("2025-02-03T0")
    assert facts["learned_to"].startswith("2025-02-09T2")
    assert facts["judged_from"].startswith("2025-02-17T0")  # the delay behind it
    assert facts["judged_to"].startswith("2025-02-24T2")
    assert facts["label_delay"] == "7d"
    assert facts["genuine_share"] == (0.1 if kind == "blend" else 1.0)
    low, high = made["metrics"]["intervals"]["auc"]
    assert low <= made["metrics"]["auc"] <= high
    assert set(made["metrics"]["importance"]) == set(made["features"])
    assert made["anomaly"]["feature_schema"] == "label_free@1"
    assert not any("risk" in name for name in made["anomaly"]["features"])
    assert 0 < made["anomaly"]["threshold"] < 1
    drawn = sorted(path.name for path in plots.iterdir())
    assert drawn == [
        "calibration.svg",
        "importance.svg",
        "precision_recall.svg",
        "roc.svg",
        "scores.svg",
    ]
    assert all(b"</svg>" in path.read_bytes()[-20:] for path in plots.iterdir())
    assert run(["models", "show", "fraud"]) == 0
    shown = capsys.readouterr().out
    for words in ("anomaly scores: average precision", "95 % in", "lost without", "label_free@1"):
        assert words in shown


def test_anomaly_scores_go_by_what_needs_no_labels(home, capsys, monkeypatch):
    monkeypatch.setenv("FRAUDSTREAM_FEATURES", "handbook")
    made = json_of(capsys, "train", *WORLD, "--anomaly")
    assert made["anomaly"]["features"] == made["features"][:9]
    assert made["features"][9] == "terminal_delayed_count_1d"
    assert made["anomaly"]["feature_schema"] == made["feature_schema"]
    model = ModelHolder(*_holder()).named("fraud")
    assert model.anomalies(np.zeros((2, 15))).shape == (2,)


def _holder():
    settings = load_settings()
    return artifact_folders(settings), catalogue_of(settings), 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--train-to", "soon"), "--train-to soon: write a date or a time, such as 2018-07-25"),
        (("--delay", "week"), "--delay week: 'week' is not a duration"),
        (("--delay", "7d"), "give --train-to, --test-from or both"),
        (
            ("--train-to", "2025-01-20", "--test-from", "2025-01-25"),
            "must be at least --delay after",
        ),
        (("--train-from", "2025-01-20", "--train-to", "2025-01-20"), "--train-to must be after"),
        (("--test-from", "2025-01-25", "--test-to", "2025-01-25"), "--test-to must be after"),
        (
            ("--test-from", "2026-01-01", "--test-to", "2026-01-02"),
            "period of the transactions contain 0 frauds",
        ),
        (("--features", "all"), "--features all is unknown; choose from basic, handbook"),
        (("--features", "handbook"), "add handbook to FRAUDSTREAM_FEATURES"),
    ],
)
def test_periods_and_features_that_make_no_sense_get_one_line(home, capsys, args, words):
    few = ("--cards", "20", "--terminals", "10", "--days", "30")
    assert words in fault(capsys, "train", *few, *args)


def test_without_matplotlib_plots_are_refused_before_the_work(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = fault(capsys, "train", "--plots", str(tmp_path))
    assert words == "--plots needs matplotlib: pip install 'fraudstream[report]'"


def test_mistakes_get_one_line(home, tmp_path, capsys):
    assert fault(capsys, "train", "--label", "x") == "--label needs --from-file"
    file = ("--from-file", str(tmp_path / "none.csv"))
    assert "No such file" in fault(capsys, "train", *file)
    assert fault(capsys, "train", *file, "--days", "3") == "--days cannot be used with --from-file"
    assert "choose one of logistic" in fault(capsys, "train", "--kind", "oracle")
    assert "is not a valid model name" in fault(capsys, "train", "--name", "a/b")
    assert "exists already" in fault(capsys, "train", "--out", str(tmp_path))
    assert "no model 'nix'" in fault(capsys, "models", "show", "nix")
    few = ("train", "--cards", "2", "--terminals", "2", "--days", "1")
    assert "each part needs both frauds and genuine transactions" in fault(capsys, *few)


@pytest.mark.parametrize("parameter", ["C=nan", "C=-1"])
def test_a_parameter_that_scikit_learn_refuses(home, capsys, parameter):
    args = (
        "train",
        "--cards",
        "200",
        "--terminals",
        "200",
        "--days",
        "60",
        "--parameter",
        parameter,
    )
    assert "--parameter: The 'C' parameter" in fault(capsys, *args)
    assert not (home / "models" / "fraud-1").exists()


def test_an_odd_manifest_hides_no_other_model(home, capsys):
    odd = home / "models" / "odd-1"
    odd.mkdir(parents=True)
    manifest = json.loads((ROOT / "models/artifacts/default/manifest.json").read_text())
    manifest |= {"name": "odd", "metrics": {"average_precision": "high", "confusion": []}}
    (odd / "manifest.json").write_text(json.dumps(manifest))
    assert run(["models"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"default", "odd"}
    assert run(["models", "show", "odd"]) == 0
    assert "figures in the manifest cannot be read" in capsys.readouterr().out
