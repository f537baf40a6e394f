"""Every server role does its work on real servers, with exactly the grants that `fraudstream grants` prints for it.

And what is written meanwhile, at log level debug, contains none of the secrets and nothing of a record.
"""

import csv
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cassandra.session import connected, disconnect
from app.devstack.environment import environment
from app.display import iso
from app.errors import SettingsError, UnavailableError
from app.ops.role_grants import ROLES, TableGrant, grants_of
from app.settings import Settings
from tests.bank import LEAVES, Bank, Outside, arguments_seen, owner_of
from tests.builders import T0, tx_bytes
from tests.deployment import PATIENCE_SECONDS, Send, wait_until
from tests.fleet import Fleet
from tests.oidc_provider import Provider, running
from tests.secret_settings import CASSANDRA_PASSWORD, PASSWORD, SECRETS, secrets_in
from tests.secured_servers import Secured
from tests.unit.test_decoding import VALUES, avro, avro_schema, framed
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

CARD, NOTE = "Zq8-card-4242", "Zq8-note-of-a-record"
SECONDS_BETWEEN = 300
CARDS = 31
#: Of a file of transactions, and of a second one that the new model scores.
FIRST, SECOND = 600, 40
#: Records that are sent beside the files: of one card, of others, and refused.
SENT, OTHERS, DEAD = 20, 2, 1
#: Not run here: two that need neither server, and one for a worker that has stopped at a record.
NOT_RUN = {"models import", "models convert", "deadletters skip"}


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    with Outside(json.dumps(avro_schema())) as made:
        yield made


@pytest.fixture(scope="module")
def bank(
    secured: Secured, outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bank]:
    """An empty cluster, and then topics and tables by the commands of the setup role."""
    folder = tmp_path_factory.mktemp("bank")
    # every transaction raises an alert
    made = Bank(
        secured, folder, outside, partitions=2, features=("basic",), model="default@1", threshold=0.0,
        session_timeout=6_000,
    )  # fmt: skip
    for command in ("topics", "migrate"):
        made.does("setup", command)
    made.grant(*(role for role in ROLES if role != "setup"))
    yield made
    disconnect(made.admin)


@pytest.mark.timeout(1_500)
def test_each_role_does_its_work_and_nothing_secret_is_written(
    bank: Bank, outside: Outside, tmp_path: Path
) -> None:
    provider = Provider(SECRETS["web_oidc_client_secret"])
    with running(provider), arguments_seen() as arguments:
        worker = bank.settings("worker", web_oidc_issuer=provider.issuer)
        _produces(bank, tmp_path, FIRST)
        sent = [
            Send(tx_bytes(f"x{number}", card=CARD, at=number * 60_000, note=NOTE), CARD.encode())
            for number in range(SENT)
        ]
        broken = Send(b'{"broken": "' + NOTE.encode() + b'"}', CARD.encode())
        bank.deployment("producer").send([*sent, broken, sent[0]])
        with Fleet(environ_of(worker), tmp_path) as fleet:
            fleet.start("one")
            fleet.await_ready("one")
            url = fleet["one"].url
            bank.deployment("auditor").drain()
            _answers(bank, url)
            _analyst(bank, outside)
            _notifier(bank, outside, tmp_path)
            _modeller(bank, tmp_path, url)
            _produces(bank, tmp_path, SECOND, first=FIRST)
            bank.deployment("auditor").drain()
            _auditor(bank, tmp_path, url)
            _repairer(bank)
            _replayer(bank)
            _keeper(bank, tmp_path)
            _eraser(bank)
            bank.does("auditor", "verify --json")
            fleet.terminate("one")
        _repartitioner(bank, outside, worker, tmp_path)
        _crashes(bank)
    for log in tmp_path.glob("*.log"):
        bank.written[f"log {log.name}"] = log.read_text(errors="replace")
    bank.written["arguments"] = "\n".join(arguments)
    assert "[DEBUG]" in bank.written["log one.log"]
    assert "SaslAuthenticateRequest" in bank.written["log one.log"]
    assert any("app worker" in line or "lifeline worker" in line for line in arguments)
    _nothing_is_in(bank.written)
    owned = {(owner_of(one), one) for one in LEAVES if owner_of(one)}
    left = {one for role, one in owned - bank.ran if role not in ("worker", "notifier")}
    assert left == NOT_RUN


def _nothing_is_in(written: dict[str, str]) -> None:
    found = {where: secrets_in(text) for where, text in written.items()}
    assert not any(found.values()), {where: said for where, said in found.items() if said}
    for where, text in written.items():
        if where.startswith(("log", "arguments", "eraser")):
            for content in (CARD, NOTE):
                # the card's id is an argument of `erase`
                told = text.replace(f"--card {CARD}", "")
                assert content not in told, (
                    f"{where}: {told[max(0, told.index(content) - 300) :][:400]}"
                )


def _produces(bank: Bank, folder: Path, count: int, first: int = 0) -> None:
    """A file of transactions, with labels: one in five is a fraud, and larger."""
    file = folder / f"history-{first}.csv"
    with file.open("w") as opened:
        out = csv.writer(opened)
        out.writerow(
            (
                "transaction_id",
                "card_id",
                "terminal_id",
                "amount",
                "event_time",
                "device",
                "is_fraud",
            )
        )
        for number in range(first, first + count):
            fraud = number % 5 == 0
            amount = (60 if fraud else 5) + number * 7 % 23
            moment = iso(T0 + number * SECONDS_BETWEEN * 1_000)
            out.writerow(
                (
                    f"h{number}",
                    f"c{number % CARDS}",
                    f"t{number % CARDS}",
                    amount,
                    moment,
                    NOTE,
                    int(fraud),
                )
            )
    said = bank.does("producer", f"produce {file} --with-labels is_fraud --label-after 1d --json")
    assert said["records"] == count, said


def _answers(bank: Bank, url: str) -> None:
    """The worker's pages, to a token and to a person who logs in; and `POST /score`."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
    )

    def ask(path: str, token: str | None = None, body: bytes | None = None) -> str:
        headers = {"Authorization": f"Bearer {token}"} if token else {"Accept": "text/html"}
        headers |= {"Content-Type": "application/json"} if body else {}
        request = urllib.request.Request(url + path, body, headers)
        with opener.open(request, timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 200
            text: str = answer.read().decode()
        bank.written[f"page {path} #{len(bank.written)}"] = text
        return text

    for path in ("/", "/metrics", "/quality/", "/models/", "/health/ready"):
        ask(path, SECRETS["web_token"])
    assert "fraud-team" not in ask("/login/oidc?next=/")
    assert "ann" in ask("/")
    answer = json.loads(ask("/score", SECRETS["score_token"], tx_bytes("scored", card="c-scored")))
    assert answer["transaction_id"] == "tx-scored"


def _analyst(bank: Bank, outside: Outside) -> None:
    bank.does("analyst", "label tx-x1 fraud --by ann")
    bank.does("analyst", f"label tx-unknown genuine --card {CARD} --wait")
    [alert, *_] = bank.does("analyst", "alerts list --from 2023-01-01 --json")["alerts"]
    shown = bank.does("analyst", f"alerts show {alert['alert_id']} --json")
    assert shown["card_id"] == alert["card_id"]
    bank.does("analyst", f"alerts ack {alert['alert_id']} --by ann")
    listed = bank.does("analyst", "alerts list --from 2023-01-01 --all --json")["alerts"]
    assert [one["alert_id"] for one in listed if one["acked"]] == [alert["alert_id"]]
    bank.does("analyst", "alerts snooze --rule r --for 1h")
    bank.does("analyst", "alerts test-notify")
    assert outside.signed == 1
    assert len(outside.paths) == 2


def _notifier(bank: Bank, outside: Outside, folder: Path) -> None:
    before = outside.signed
    settings = bank.settings("notifier")
    with (folder / "notify.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "notify", "--heartbeat", str(folder / "beat")],
            env=environ_of(settings), stdout=log, stderr=log,
        )  # fmt: skip
        try:
            both = lambda: (folder / "notify.log").read_text().count("has partitions") == 2  # noqa: E731
            wait_until(lambda: process.poll() is not None or both(), "partitions of both routes")
            # routes begin with the alerts that come from now on
            sent = Send(tx_bytes("notified", card="c-notified"), b"c-notified")
            bank.deployment("producer").send([sent])
            wait_until(lambda: process.poll() is not None or outside.signed > before, "a webhook")
            assert process.poll() is None, (folder / "notify.log").read_text()[-3_000:]
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()


def _modeller(bank: Bank, folder: Path, url: str) -> None:
    def does(line: str, **more: Any) -> Any:
        return bank.does("modeller", line, **more)

    does("rules add large 'amount > 1000000'")
    assert "large" in does("rules list")
    does("rules show large")
    assert does("rules test 'amount > 1' --json")["read"] == FIRST + SENT + OTHERS
    does("rules remove large")
    assert "large" in does("rules history")
    does("lists add block card c-stolen")
    assert "c-stolen" in does("lists list")
    does("lists remove block card c-stolen")
    for number, source in enumerate(("kafka", "cassandra"), 1):
        assert does(f"train --from-{source} --name fraud --json")
        does(f"models register fraud@{number}")
    listed = does("models list --json")
    assert "fraud" in json.dumps(listed)
    does("models show fraud@1")
    does("models diff fraud@1 fraud@2")
    does(f"models download fraud@1 {folder}/down")
    does(f"models keygen {folder}/key.pem")
    digest = does("models show fraud@1 --json")["hash"]
    does(f"models sign fraud@1 --key {folder}/key.pem --hash {digest}")
    does("models gate fraud@1 --from 2020-01-01")
    does("models shadow fraud@2")
    does("models shadow fraud@2 --stop")
    does("models canary fraud@2 --share 5%")
    does("models canary fraud@2 --stop")
    does("models promote fraud@2 --force")
    does("models rollback")
    does("models promote fraud@1 --force")
    does("models threshold 0.4")
    assert "promote fraud@1" in does("models history")
    does("retrain --json")


def _auditor(bank: Bank, folder: Path, url: str) -> None:
    def does(line: str, **more: Any) -> Any:
        return bank.does("auditor", line, **more)

    scored = FIRST + SECOND + SENT + OTHERS
    report = does("verify --json")
    assert (report["scored"], report["rows"]) == (scored, scored)
    assert "tx-x1" in does("transaction tx-x1")
    of_one_card = len(range(1, FIRST + SECOND, CARDS))  # `produce` writes pseudonyms of cards
    assert does(f"card c1 --url {url} --json")["entries"] == of_one_card
    assert does(f"terminal t1 --url {url} --json")["entries"] >= SENT
    dead = does("deadletters list --json")
    assert dead["total"] == DEAD
    does(f"deadletters show {dead['dead_letters'][0]['source']}")
    assert "label  card/" in does("audit --by ann")
    assert does("quality --json")
    rebuilt = does(f"rebuild --datadir {folder / 'one'} --json")
    assert rebuilt, rebuilt
    does("drift --json")


def _repairer(bank: Bank) -> None:
    def rows() -> int:
        return int(
            bank.cql(f"SELECT COUNT(*) FROM {bank.base.keyspace}.predictions").one()["count"]
        )

    stored = rows()
    bank.cql(f"TRUNCATE {bank.base.keyspace}.predictions")
    assert rows() == 0
    bank.does("repairer", "rewrite --json")
    assert rows() == stored
    sent = bank.does("repairer", "deadletters redrive --all --json")
    assert sent, sent
    bank.deployment("auditor").drain()


def _replayer(bank: Bank) -> None:
    again = bank.does("replayer", "replay --group replay_a --from 2023-11-01 --json")
    assert again["scored"] == FIRST + SECOND + SENT + OTHERS, again
    bank.does("replayer", "replay --remove replay_a")


def _keeper(bank: Bank, folder: Path) -> None:
    saved = folder / "saved"
    bank.does("keeper", f"backup {saved} --rows")
    bank.does("keeper", f"restore {saved}")


def _eraser(bank: Bank) -> None:
    for options in (f"--card {CARD} --reason asked --yes", "--again", "--list"):
        bank.does("eraser", f"erase {options}")
    # refused: the secrets are at hand where the error is written
    for wrong in (
        {"kafka_password": f"{PASSWORD}-"},
        {"cassandra_password": f"{CASSANDRA_PASSWORD}-"},
    ):
        said = bank.does("eraser", "erase --again", code=3, **wrong)
        assert len(said.strip().splitlines()) == 1, said


def _repartitioner(bank: Bank, outside: Outside, worker: Settings, folder: Path) -> None:
    """And the worker that goes on reads Avro, with schemas of a registry that wants a password."""
    done = bank.does("repartitioner", "repartition --to 3 --json")
    assert done["partitions"] == 3
    bank.base = bank.base.model_copy(update={"partitions": 3, "generation": 2})
    bank.base.model_fields_set.update(("partitions", "generation"))
    bank.grant(*(role for role in ROLES if role not in ("setup", "keeper", "replayer")))
    after = bank.settings("worker", input_format="avro")
    with Fleet(environ_of(after), folder) as fleet:
        fleet.start("two")
        fleet.await_ready("two")
        bank.does("auditor", "verify --json")
        value = VALUES | {"transaction_id": "avro-1", "card_id": "c-avro"}
        bank.deployment("producer").send([Send(framed(1, avro(avro_schema(), value)), b"c-avro")])
        bank.deployment("auditor").drain()
    assert outside.asked
    assert "avro-1" in bank.does("auditor", "transaction avro-1")
    bank.does("repartitioner", "repartition --finish")


#: A command that fails where it has all settings in its hands.
_CRASH = """
import sys
import app.ops.verify as module
from app.cli.command_errors import run
async def crash(settings, **_):
    secret = settings.kafka_password.get_secret_value()
    raise RuntimeError(f"{settings!r}")
module.verify = crash
sys.exit(run(["verify"]))
"""


def _crashes(bank: Bank) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CRASH], env=environ_of(bank.settings("auditor")), capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" in done.stderr
    bank.written["crash"] = done.stdout + done.stderr


def test_local_servers_inherit_no_secret(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in ("kafka", "cassandra"):
        running = secured.stack.running(server)
        assert running
        names = set(psutil.Process(running.pid).environ())
        assert not [name for name in names if name.startswith(("FRAUDSTREAM", "PYTEST"))]
    monkeypatch.setenv("FRAUDSTREAM_KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    assert PASSWORD not in str(environment())


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("transactions", "Kafka forbids topic"),
        ("predictions", "Kafka forbids topic"),
        ("group", "Kafka forbids consumer group"),
    ],
)
def test_a_missing_grant_is_named(bank: Bank, tmp_path: Path, missing: str, says: str) -> None:
    worker = bank.settings("worker")
    wanted = worker.topic_prefix + missing
    [grant] = [
        one for one in grants_of("worker", worker) if one.name == wanted or one.kind == missing
    ]
    with bank.without("worker", grant):
        line = ended(worker, tmp_path)
    assert says in line
    assert grant.name in line
    assert ": grant " in line


def test_a_missing_grant_at_cassandra_is_named(bank: Bank, tmp_path: Path) -> None:
    worker = bank.settings("worker")
    table = f"{worker.keyspace}.schema_migrations"
    with bank.without("worker", TableGrant(f"TABLE {table}", ("SELECT",))):
        line = ended(worker, tmp_path)
    assert "Cassandra forbids it" in line
    assert "has no SELECT permission" in line
    assert "grant it to FRAUDSTREAM_CASSANDRA_USERNAME" in line


def test_a_change_whose_audit_record_cannot_be_written_is_refused(bank: Bank) -> None:
    analyst = bank.deployment("analyst", log_level="info")
    snooze = ("alerts", "snooze", "--rule", "refused", "--for", "1h")
    audit = TableGrant(f"TABLE {bank.base.keyspace}.audit_records", ("MODIFY",))
    with bank.without("analyst", audit):
        done = analyst.run(*snooze)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.strip().splitlines()
    assert "nothing was changed: the audit record cannot be written: Cassandra forbids it" in line
    assert "refused" not in analyst.run("alerts", "snooze").stdout
    assert analyst.run(*snooze).returncode == 0


def ended(settings: Settings, folder: Path) -> str:
    """The last line of a worker that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "worker", "--web-port", "0", "--datadir", str(folder / "state")],
        env=environ_of(settings), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_cassandra_says_why_it_refuses(bank: Bank, secured: Secured, tmp_path: Path) -> None:
    authority = secured.authority
    old = authority.issue("late-client", expired=True)
    other = authority.folder / "stranger-ca.pem"
    with connected(bank.settings("worker")):  # by an encrypted key
        pass
    for password in ("wrong", None):
        with pytest.raises(SettingsError, match="FRAUDSTREAM_CASSANDRA_KEY_PASSWORD as well"):
            _refusal(bank.settings("worker", cassandra_key_password=password))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cassandra_password": "wrong"}, "refuses user '"),
        (
            {"cassandra_username": "nobody"},
            "refuses user 'nobody': check FRAUDSTREAM_CASSANDRA_USER",
        ),
        ({"cassandra_username": None, "cassandra_password": None}, "requires a user: set FRAUD"),
        (
            {"cassandra_ca_file": other},
            "an authority that is not trusted here: name its certificate",
        ),
        (
            {"cassandra_cert_file": None, "cassandra_key_file": None},
            "requires a client certificate",
        ),
        ({"cassandra_cert_file": old[0], "cassandra_key_file": old[1]}, "refuses our certificate"),
    ]
    for changes, says in cases:
        line = _refusal(bank.settings("worker", **changes))
        assert says in line, f"{changes}: {line}"
        assert "\n" not in line
        assert CASSANDRA_PASSWORD not in line


def _refusal(settings: Settings) -> str:
    with pytest.raises(UnavailableError) as caught, connected(settings):
        pass
    return str(caught.value)
