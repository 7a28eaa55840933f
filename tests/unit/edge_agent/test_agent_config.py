"""What an agent is told, what it finds out about its device, and what it keeps of its enrolment."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.config import PREFIX, PROG, Config
from edge_agent.facts import gather, temperatures
from edge_agent.identity import Identity
from maskfleet.config import load
from maskfleet.enrolment import JoinToken, issue_credential
from maskfleet.errors import AuthenticationError, InvalidInputError, PreconditionError, SignatureError
from maskfleet.ids import fingerprint
from maskfleet.manifest import public_bytes

PLANE_KEY = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
PLANE = public_bytes(PLANE_KEY)
TOKEN = JoinToken("s" * 32, fingerprint(PLANE))


def read(*argv: str) -> Config:
    return load(Config, prog=PROG, prefix=PREFIX, argv=["--data-dir", "/x", *argv], environ={}).checked()


def test_an_agent_listens_on_loopback_unless_it_is_told_otherwise() -> None:
    assert read().listen.startswith("127.0.0.1:")
    assert read("--listen", "0.0.0.0:7710", "--allow-remote").listen == "0.0.0.0:7710"
    assert read("--listen", "unix:/run/agent.sock", "--metrics-listen", "").metrics_listen == ""


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--listen", "0.0.0.0:7710"], "can be reached from other machines"),
        (["--metrics-listen", "10.0.0.1:9000"], "can be reached from other machines"),
        (["--package", "p", "--plane", "h:1"], "exclude each other"),
        (["--join-token-file", "t"], "needs --plane"),
        (["--threads", "-1"], "whole number"),
        (["--soak-s", "nan"], "give seconds"),
        (["--health-interval-s", "0"], "more than 0"),
        (["--max-streams", "0"], "at least 1"),
        (["--log-level", "loud"], "give DEBUG"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(argv: list[str], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read(*argv)


def fake_root(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_desktop_with_a_gpu(tmp_path: Path) -> None:
    root = fake_root(tmp_path, {"etc/os-release": 'ID=debian\nVERSION_ID="12"\n'})
    facts = gather(
        root,
        lambda command: (
            "NVIDIA RTX A2000, 8.6, 580.65.06\nNVIDIA T4, 7.5, 580.65.06" if "nvidia-smi" in command else ""
        ),
    )
    assert (facts.os, facts.gpu, facts.compute_capability, facts.jetpack) == (
        "debian 12",
        "NVIDIA RTX A2000",
        "SM86",
        "",
    )
    assert facts.driver == "580.65.06"
    assert facts.runtimes["onnxruntime"]
    assert "ort-cpu" in facts.targets
    assert "rtx-ampere-plus needs pycuda" in facts.target_note


@pytest.mark.parametrize(("said", "jetpack"), [("6.2+b77", "6.2+b77"), ("", "l4t 36.4.3")])
def test_a_jetson(said: str, jetpack: str, tmp_path: Path) -> None:
    text = "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n"
    root = fake_root(tmp_path, {"etc/nv_tegra_release": text, "etc/os-release": "ID=ubuntu\n"})
    facts = gather(root, lambda command: said if command[0] == "dpkg-query" else "")
    assert (facts.jetpack, facts.os, facts.gpu) == (jetpack, "ubuntu", "")


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    facts = gather(tmp_path, lambda command: "Failed to initialize NVML: Driver mismatch")
    assert (facts.gpu, facts.compute_capability, facts.jetpack) == ("", "", "")
    assert facts.os
    assert temperatures(tmp_path) == {}


def test_temperatures_are_degrees(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    broken = "sys/class/thermal/thermal_zone1/type"
    assert temperatures(fake_root(tmp_path, {f"{zone}/type": "cpu\n", f"{zone}/temp": "51500\n", broken: "x"})) == {
        "cpu": 51.5
    }


def test_what_enrolment_gave_is_kept_from_others(tmp_path: Path) -> None:
    identity = Identity.opened(tmp_path)
    assert identity.trusted() == {}
    token = issue_credential(PLANE_KEY, identity.device_id)
    identity.accept(token, PLANE, TOKEN)
    again = Identity.opened(tmp_path)
    assert again.device_id == identity.device_id
    assert again.credential is not None
    assert again.credential.token == token
    assert "mfd1" not in repr(again.credential)
    assert again.trusted() == {fingerprint(PLANE): PLANE}
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_another_planes_key_is_not_pinned(tmp_path: Path) -> None:
    identity = Identity.opened(tmp_path)
    with pytest.raises(SignatureError):
        identity.accept("mfd1.x.y", public_bytes(identity.key), TOKEN)
    assert identity.credential is None
    assert not (tmp_path / "credential.json").exists()


def test_a_credential_that_is_not_this_devices_is_not_kept(tmp_path: Path) -> None:
    identity = Identity.opened(tmp_path)
    stranger = issue_credential(identity.key, identity.device_id)
    for token in ("", "mfd1.x.y", stranger, issue_credential(PLANE_KEY, "d-other")):
        with pytest.raises(AuthenticationError):
            identity.accept(token, PLANE, TOKEN)
    assert identity.credential is None
    assert not (tmp_path / "credential.json").exists()


def test_a_broken_credential_is_named(tmp_path: Path) -> None:
    for damage in ("{", "[]", '{"credential": "x", "plane_public_key": "AAAA"}'):
        (tmp_path / "credential.json").write_text(damage)
        with pytest.raises(PreconditionError, match="enrol the device again"):
            Identity.opened(tmp_path)
