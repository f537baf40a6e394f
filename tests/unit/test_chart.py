"""The Helm chart: what Kubernetes would get, against its schemas and against what a worker needs."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from app.settings import Settings
from app.topics import Topics
from tests.chart import (
    CHART,
    HELM,
    ROOT,
    VALUES,
    chart_hash,
    helm,
    manifests,
    pod_specs,
    render,
    sample,
)

#: The oldest that the chart admits, and a new one. Schemas of the API servers themselves, strict.
KUBERNETES = ("1.29", "1.34")
by_values = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
needs_helm = pytest.mark.skipif(
    HELM is None, reason="no helm on PATH: kept manifests are checked only"
)
Manifest = dict[str, Any]


def kept(values: Path) -> list[Manifest]:
    return list(manifests(sample(values).read_text()))


def of_kind(values: Path, kind: str) -> list[Manifest]:
    return [each for each in kept(values) if each["kind"] == kind]


def containers(pod: Any) -> list[Any]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@by_values
def test_the_kept_manifests_are_this_charts(values: Path) -> None:
    first = sample(values).read_text().splitlines()[0]
    assert first == f"# chart: {chart_hash()}", "the chart has changed: run `make chart`"


@needs_helm
@by_values
def test_helm_renders_what_is_kept(values: Path) -> None:
    assert list(manifests(render(values))) == kept(values)


@needs_helm
def test_helm_has_nothing_to_say_against_it() -> None:
    done = helm("lint", "--strict", CHART, "-f", VALUES[0])
    assert not done.returncode, done.stdout + done.stderr


@needs_helm
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--set", "replicas=5"], "there are 4 partitions"),
        (
            ["--set", "settings.FRAUDSTREAM_KAFKA_PASSWORD=x"],
            "propertyName 'FRAUDSTREAM_KAFKA_PASSWORD'",
        ),
        (["--set", "settings.FRAUDSTREAM_HOME=/x"], "propertyName 'FRAUDSTREAM_HOME'"),
        (["--set", "settings.FRAUDSTREAM_BROKER=null"], "FRAUDSTREAM_BROKER"),
        (["--set", "secretSettings.FRAUDSTREAM_KAFKA_PASSWORD.value=x"], "value"),
        (["--set", "notify.enabled=true"], "FRAUDSTREAM_NOTIFY_ROUTES"),
        (["--set", "notify.settings.FRAUDSTREAM_NOTIFY_ROUTES=x"], "FRAUDSTREAM_NOTIFY_ROUTES"),
        (
            [
                *("--set", "notify.enabled=true", "--set", "notify.replicas=5"),
                *("--set", "notify.secretSettings.FRAUDSTREAM_NOTIFY_ROUTES.name=x"),
                *("--set", "notify.secretSettings.FRAUDSTREAM_NOTIFY_ROUTES.key=x"),
            ],
            "more notifiers than partitions",
        ),
    ],
)
def test_what_cannot_work_is_refused(given: list[str], complaint: str) -> None:
    done = helm("template", "x", CHART, "-f", VALUES[0], *given)
    assert done.returncode
    assert complaint in done.stderr


def test_secrets_are_refused_among_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    base = yaml.safe_load((CHART / "values.yaml").read_text())
    base["settings"] |= yaml.safe_load(VALUES[0].read_text())["settings"]
    jsonschema.validate(base, schema)
    secret = [
        name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
    ]
    assert len(secret) >= 3
    for name in secret:
        with pytest.raises(jsonschema.ValidationError):
            settings = {**base["settings"], f"FRAUDSTREAM_{name.upper()}": "x"}
            jsonschema.validate({**base, "settings": settings}, schema)


@by_values
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_it(values: Path, version: str) -> None:
    for each in kept(values):
        if not each["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(each, version, strict=True)


@by_values
def test_containers_may_do_no_more_than_they_need(values: Path) -> None:
    pods = list(pod_specs(kept(values)))
    assert {"StatefulSet", "Job"} <= {kind for kind, _ in pods}
    for _, pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in containers(pod):
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/var/lib/fraudstream"} <= paths
            assert not container["image"].endswith(":latest")


@by_values
def test_no_variable_comes_from_a_service(values: Path) -> None:
    """Kubernetes names them after services: FRAUDSTREAM_PORT and so on, which are no settings."""
    for _, pod in pod_specs(kept(values)):
        assert pod["enableServiceLinks"] is False


@by_values
def test_all_variables_are_settings_and_secrets_are_references(values: Path) -> None:
    known = {f"FRAUDSTREAM_{name.upper()}": field for name, field in Settings.model_fields.items()}
    for _, pod in pod_specs(kept(values)):
        for container in containers(pod):
            named = [entry["name"] for entry in container["env"]]
            assert len(named) == len(set(named))
            for entry in container["env"]:
                assert entry["name"] in known or entry["name"] == "POD_NAME"
                if "Secret" in str(known.get(entry["name"], "")):
                    assert "secretKeyRef" in entry["valueFrom"]
                elif "value" in entry:
                    assert isinstance(entry["value"], str)
    assert not [each for each in kept(values) if each["kind"] in {"Secret", "ConfigMap"}]


@by_values
def test_settings_are_read_as_they_are_written(values: Path) -> None:
    written = yaml.safe_load(values.read_text())["settings"]
    [(_, pod)] = [each for each in pod_specs(kept(values)) if each[0] == "StatefulSet"]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert {name: env[name] for name in written} == {n: str(value) for n, value in written.items()}
    env |= {name: "secret" for name, value in env.items() if value is None}
    plain = {
        name.removeprefix("FRAUDSTREAM_").lower(): value
        for name, value in env.items()
        if name.startswith("FRAUDSTREAM_")
    }
    Settings(_env_file=None, **plain)  # type: ignore[call-arg]


@by_values
def test_probes_are_honest(values: Path) -> None:
    [stateful] = of_kind(values, "StatefulSet")
    pod = stateful["spec"]["template"]["spec"]
    worker = pod["containers"][0]
    paths = {
        name: worker[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "liveness", "readiness")
    }
    # readiness must not restart a worker: a rebuild takes its time, and an outage of Cassandra is none of its faults
    assert paths == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert worker["readinessProbe"]["timeoutSeconds"] > 2  # what it takes while Kafka is silent
    live = worker["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 60
    assert pod["terminationGracePeriodSeconds"] > 9  # a worker ends by itself by then


@by_values
def test_workers_keep_their_state_and_their_names(values: Path) -> None:
    [stateful] = of_kind(values, "StatefulSet")
    spec = stateful["spec"]
    [claim] = spec["volumeClaimTemplates"]
    worker = spec["template"]["spec"]["containers"][0]
    assert {"name": claim["metadata"]["name"], "mountPath": "/var/lib/fraudstream"} in worker[
        "volumeMounts"
    ]
    assert spec["podManagementPolicy"] == "Parallel"
    [headless] = [s for s in of_kind(values, "Service") if s["spec"].get("clusterIP") == "None"]
    assert headless["metadata"]["name"] == spec["serviceName"]
    assert headless["spec"]["publishNotReadyAddresses"] is True
    [advertised] = [e for e in worker["env"] if e["name"] == "FRAUDSTREAM_ADVERTISED_HOST"]
    assert advertised["value"] == f"$(POD_NAME).{spec['serviceName']}.payments.svc"
    [host] = [e for e in worker["env"] if e["name"] == "FRAUDSTREAM_HOST_NAME"]
    assert host["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


@by_values
def test_every_selector_finds_its_pods_and_no_others(values: Path) -> None:
    [stateful], [job] = of_kind(values, "StatefulSet"), of_kind(values, "Job")
    worker = stateful["spec"]["template"]["metadata"]["labels"].items()
    setup = job["spec"]["template"]["metadata"]["labels"].items()
    [budget] = of_kind(values, "PodDisruptionBudget")
    policies = {each["metadata"]["name"]: each for each in of_kind(values, "NetworkPolicy")}
    policy = policies["fraudstream"]
    others = {"setup": setup}
    for notifier in of_kind(values, "Deployment"):
        others["notify"] = notifier["spec"]["template"]["metadata"]["labels"].items()
        assert notifier["spec"]["selector"]["matchLabels"].items() <= others["notify"]
    for name, labels in others.items():
        selected = policies[f"fraudstream-{name}"]["spec"]["podSelector"]["matchLabels"].items()
        assert [other for other, its in others.items() if selected <= its] == [name]
        assert not selected <= worker
        assert selected <= labels
    assert len(policies) == 1 + len(others)
    selectors = [
        stateful["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
        *(each["spec"]["selector"] for each in of_kind(values, "Service")),
    ]
    for selector in selectors:
        assert selector.items() <= worker
        assert not [name for name, labels in others.items() if selector.items() <= labels]


@by_values
def test_the_network_is_closed_by_default(values: Path) -> None:
    for policy in of_kind(values, "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule["from"] for rule in policy["spec"].get("ingress", []))
        assert all(rule["ports"] for rule in policy["spec"]["egress"])


def commands(values: Path) -> set[str]:
    return {each["args"][0] for _, pod in pod_specs(kept(values)) for each in containers(pod)}


def test_every_process_is_everywhere() -> None:
    """What Procfile, compose.yaml and the chart run; and docs/deploy.md names it."""
    _, full = VALUES
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    composed = {each["command"][0] for each in services if "fraudstream" in each["image"]}
    lines = (ROOT / "Procfile").read_text().splitlines()
    started = {line.partition(":")[0] for line in lines} - {"simulator"}
    assert started == {"worker", "notify"}
    assert commands(full) == composed == started | {"topics", "migrate"}
    text = (ROOT / "docs/deploy.md").read_text()
    assert all(f"`fraudstream {name}`" in text for name in composed)


def test_the_notifier_has_secrets_of_its_own() -> None:
    default, full = VALUES
    assert not of_kind(default, "Deployment")
    [notifier] = of_kind(full, "Deployment")
    assert notifier["spec"]["replicas"] == 2
    env = {
        kind: {each["name"]: each for each in containers(pod)[0]["env"]}
        for kind, pod in pod_specs(kept(full))
    }
    mine = env["Deployment"]
    assert mine["FRAUDSTREAM_NOTIFY_ROUTES"]["valueFrom"]["secretKeyRef"]["key"] == "routes"
    assert mine["FRAUDSTREAM_KAFKA_USERNAME"]["value"] == "fraudstream-notify"
    # the same servers and names as everybody
    assert {"FRAUDSTREAM_BROKER", "FRAUDSTREAM_APP_ID", "FRAUDSTREAM_TOPIC_PREFIX"} <= mine.keys()
    for kind in ("StatefulSet", "Job"):
        assert not [name for name in env[kind] if "NOTIFY" in name]
        assert env[kind]["FRAUDSTREAM_KAFKA_USERNAME"]["value"] == "fraudstream"


def test_the_notifiers_probe_sees_whether_the_heartbeat_is_old(tmp_path: Path) -> None:
    _, full = VALUES
    [notifier] = of_kind(full, "Deployment")
    [container] = notifier["spec"]["template"]["spec"]["containers"]
    probe = container["livenessProbe"]
    assert probe["exec"] == container["startupProbe"]["exec"]
    *shell, test = probe["exec"]["command"]
    file = container["args"][-1]
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["notify"]
    assert composed["command"] == container["args"]
    assert composed["healthcheck"]["test"] == ["CMD-SHELL", test.replace("$", "$$")]
    beat = tmp_path / "beat"

    def works() -> bool:
        command = [*shell, test.replace(file, str(beat))]
        return not subprocess.run(command, check=False, capture_output=True).returncode

    assert not works()  # Kafka has not answered yet
    beat.touch()
    assert works()
    minutes_ago = time.time() - 150
    os.utime(beat, (minutes_ago, minutes_ago))
    assert not works()


@by_values
def test_topics_and_tables_come_first(values: Path) -> None:
    [job] = of_kind(values, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert [each["args"] for each in containers(pod)] == [["topics"], ["migrate"]]
    assert pod["restartPolicy"] == "Never"  # what a policy of failures needs
    names = {each["name"] for each in containers(pod)}
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == names
    policy = [each for each in of_kind(values, "NetworkPolicy") if "setup" in str(each["metadata"])]
    assert int(policy[0]["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
        job["metadata"]["annotations"]["helm.sh/hook-weight"]
    )


def test_scaling_stays_within_the_partitions() -> None:
    default, full = VALUES
    assert not of_kind(default, "ScaledObject")
    [scaled] = of_kind(full, "ScaledObject")
    assert scaled["spec"]["maxReplicaCount"] == 24  # of 40 that the values ask for
    triggers = [each["metadata"] for each in scaled["spec"]["triggers"]]
    topics = Topics(
        Settings(_env_file=None, app_id="fraudstream-2", topic_prefix="cards.")  # type: ignore[call-arg]
    )
    assert {each["consumerGroup"] for each in triggers} == {"fraudstream-2"}
    assert [each["topic"] for each in triggers] == [topics.transactions.name, topics.enriched.name]
    assert all(isinstance(value, str) for each in triggers for value in each.values())
    [stateful] = of_kind(full, "StatefulSet")
    assert "replicas" not in stateful["spec"]  # an upgrade would undo what KEDA has set


def test_templates_use_no_value_that_is_not_declared() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in (CHART / "templates").iterdir():
        for name in re.findall(r"\.Values\.([A-Za-z.]+)", path.read_text()):
            found: Any = values
            for part in name.split("."):
                assert part in found, f"{path.name}: .Values.{name}"
                found = found[part]
