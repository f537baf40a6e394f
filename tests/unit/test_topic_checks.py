"""What topics are refused for, and the way out that the line names."""

import pytest

from app.errors import SchemaError
from app.kafka.topic_checks import (
    changed,
    check_config,
    check_counts,
    next_app_id,
    recreated,
)
from app.kafka.topic_metadata import SeenTopic
from app.settings import load_settings
from app.topics import Topics

pytestmark = pytest.mark.usefixtures("no_settings")

settings = load_settings({"partitions": 4, "broker": "k:9092"})
topics = Topics(settings)


@pytest.mark.parametrize(
    ("before", "after"), [("fraudstream", "fraudstream-2"), ("a-2", "a-3"), ("a-9", "a-10")]
)
def test_the_next_app_id(before: str, after: str) -> None:
    assert next_app_id(before) == after


class TestCounts:
    def refusal(self, **counts: int) -> str | None:
        """What is said when these topics, by role, have other numbers of partitions than four."""
        there = {spec.name: 4 for spec in topics.all}
        there |= {getattr(topics, role).name: count for role, count in counts.items()}
        try:
            check_counts(there, topics.all, settings)
        except SchemaError as error:
            return str(error)
        return None

    def test_as_many_as_the_settings_say(self) -> None:
        assert self.refusal() is None
        check_counts({}, topics.all, settings)

    def test_all_others_than_the_settings_say(self) -> None:
        with pytest.raises(SchemaError, match="set FRAUDSTREAM_PARTITIONS=7"):
            check_counts({spec.name: 7 for spec in topics.all}, topics.all, settings)

    def test_a_source_that_has_grown(self) -> None:
        said = self.refusal(transactions=6)
        assert said is not None
        assert (
            "run `FRAUDSTREAM_APP_ID=fraudstream-2 FRAUDSTREAM_PARTITIONS=6 fraudstream topics "
            "--add-partitions`, then start the workers with FRAUDSTREAM_APP_ID=fraudstream-2 and "
            "FRAUDSTREAM_PARTITIONS=6" in said
        )

    def test_an_output_that_lacks_some_needs_no_new_state(self) -> None:
        said = self.refusal(labels=2, predictions=3)
        assert said is not None
        assert "run `fraudstream topics --add-partitions`" in said
        assert "FRAUDSTREAM_APP_ID" not in said

    @pytest.mark.parametrize("role", ["enriched", "cards_changelog"])
    @pytest.mark.parametrize("count", [2, 6])
    def test_an_internal_topic_that_differs(self, role: str, count: int) -> None:
        said = self.refusal(**{role: count})
        assert said is not None
        assert "FRAUDSTREAM_APP_ID=fraudstream-2" in said

    def test_what_the_line_names_is_accepted_afterwards(self) -> None:
        follower = load_settings({"partitions": 6, "app_id": "fraudstream-2"})
        wanted = Topics(follower)
        public = {s.name: 6 for s in wanted.all if s.use != "internal"}
        check_counts(public, wanted.all, follower)


class TestConfig:
    name = topics.transactions.name

    @pytest.mark.parametrize(
        ("key", "value", "allowed"),
        [
            ("cleanup.policy", "compact", "compact"),
            ("cleanup.policy", "compact,delete", "compact"),
            ("message.timestamp.type", "CreateTime", "create-time"),
        ],
    )
    def test_what_makes_results_wrong_is_refused_unless_allowed(
        self, key: str, value: str, allowed: str
    ) -> None:
        for name in (topics.transactions.name, topics.labels.name):
            with pytest.raises(SchemaError) as caught:
                check_config({name: {key: value}}, topics.all, settings)
            said = str(caught.value)
            assert f"topic {name} has {key}={value}" in said
            assert f"--entity-name {name} --add-config {key}=" in said
            assert f"FRAUDSTREAM_ALLOW_TOPIC_CONFIG={allowed}" in said
            fine = load_settings({"allow_topic_config": f"{allowed}"})
            assert key in check_config({name: {key: value}}, topics.all, fine)[name]

    def test_outputs_are_warned_of(self) -> None:
        found = check_config(
            {topics.predictions.name: {"cleanup.policy": "compact"}}, topics.all, settings
        )
        assert found == {
            "predictions": "cleanup.policy is compact, but the settings require delete"
        }


class TestWhileRunning:
    ids = {spec.name: spec.name.upper() for spec in topics.known}

    def seen(self, **changes: SeenTopic | None) -> dict[str, SeenTopic]:
        there = {spec.name: SeenTopic(spec.name.upper(), 4) for spec in topics.all}
        for role, one in changes.items():
            name = getattr(topics, role).name
            del there[name]
            if one is not None:
                there[name] = one
        return there

    def test_nothing(self) -> None:
        assert changed(self.seen(), self.ids, topics, settings) is None
        unknown = SeenTopic(None, 4)  # by a broker that is too old for ids
        assert changed(self.seen(transactions=unknown), self.ids, topics, settings) is None
        assert changed(self.seen(), {}, topics, settings) is None
        assert changed(self.seen(duplicates=None), self.ids, topics, settings) is None

    @pytest.mark.parametrize("role", ["transactions", "labels", "predictions", "labels_changelog"])
    def test_another_of_that_name(self, role: str) -> None:
        other = self.seen(**{role: SeenTopic("OTHER", 4)})
        error = changed(other, self.ids, topics, settings)
        assert error is not None
        assert f"topic {getattr(topics, role).name} was deleted and created again" in str(error)
        assert error.exit_code == 5

    def test_none_of_that_name(self) -> None:
        error = changed(self.seen(transactions=None), self.ids, topics, settings)
        assert "topic transactions was deleted since" in str(error)

    def test_more_partitions(self) -> None:
        more = self.seen(transactions=SeenTopic("TRANSACTIONS", 6))
        error = changed(more, self.ids, topics, settings)
        assert "transactions has 6 partitions" in str(error)


def test_the_refusal_names_a_deployment_that_starts_afresh() -> None:
    said = str(recreated(["transactions", "labels"], settings))
    assert said.startswith("topics transactions, labels were deleted and created again")
    assert "run `FRAUDSTREAM_APP_ID=fraudstream-2 fraudstream topics`" in said
