"""Envelopes, manifests, assignments."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maskfleet.errors import IntegrityError, SignatureError, UnsupportedError
from maskfleet.ids import fingerprint
from maskfleet.manifest import (
    ASSIGNMENT_TYPE,
    MANIFEST_TYPE,
    Assignment,
    EngineEntry,
    Envelope,
    Manifest,
    public_bytes,
    release_digest,
)
from maskfleet.policy import MaskPolicy, Style

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRUSTED = {fingerprint(public_bytes(KEY)): public_bytes(KEY)}
MANIFEST = Manifest(
    release_id="r-1",
    counter=1,
    created="2026-01-01T00:00:00+00:00",
    model_name="centerface",
    model_version=1,
    model_digest="sha256:" + "0" * 64,
    decoder="centerface",
    input_width=640,
    input_height=352,
    policy=MaskPolicy(style=Style.SOLID),
    engines=(
        EngineEntry("ort-cpu", "sha256:" + "a" * 64, 7, "onnxruntime", "1.32.0", "fp32", "engine"),
        EngineEntry("rtx-turing", "sha256:" + "b" * 64, 8, "tensorrt-rtx", "1.7.1", "fp16", "prepared-onnx"),
    ),
)


def test_a_manifest_survives_the_way_through_an_envelope() -> None:
    sent = Envelope.signed(MANIFEST.to_payload(), MANIFEST_TYPE, [KEY]).to_bytes()
    payload = Envelope.from_bytes(sent).opened(MANIFEST_TYPE, TRUSTED)
    assert Manifest.from_payload(payload) == MANIFEST
    assert release_digest(payload) == release_digest(MANIFEST.to_payload())


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda e: dataclasses.replace(e, payload=e.payload + b" "), id="one byte more"),
        pytest.param(lambda e: dataclasses.replace(e, signatures={}), id="no signature"),
        pytest.param(lambda e: Envelope.signed(e.payload, MANIFEST_TYPE, [OTHER]), id="another's signature"),
        pytest.param(
            lambda e: dataclasses.replace(
                e, signatures={next(iter(TRUSTED)): Envelope.signed(e.payload, MANIFEST_TYPE, [OTHER]).to_bytes()[:64]}
            ),
            id="another's signature under the trusted name",
        ),
        pytest.param(
            lambda e: Envelope.signed(e.payload, ASSIGNMENT_TYPE, [KEY]), id="an assignment passed off as a manifest"
        ),
        pytest.param(
            lambda e: dataclasses.replace(
                Envelope.signed(e.payload, ASSIGNMENT_TYPE, [KEY]), payload_type=MANIFEST_TYPE
            ),
            id="a type that was changed after signing",
        ),
    ],
)
def test_nothing_is_opened_that_the_plane_did_not_sign(spoil: object) -> None:
    good = Envelope.signed(MANIFEST.to_payload(), MANIFEST_TYPE, [KEY])
    with pytest.raises(SignatureError):
        spoil(good).opened(MANIFEST_TYPE, TRUSTED)  # type: ignore[operator]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"payload": "%", "payloadType": "x", "signatures": []}', b"x" * (2 << 20)]
)
def test_bytes_that_are_no_envelope_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Envelope.from_bytes(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"counter":1', b'"counter":true'),
        (b'"counter":1', b'"counter":"1"'),
        (b'"engines":[', b'"motors":['),
        (b'"style":"solid"', b'"style":"invisible"'),
        (b'"margin":0.2', b'"margin":-1'),
        (b"sha256:aaaa", b"../../../etc"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused(old: bytes, new: bytes) -> None:
    payload = MANIFEST.to_payload()
    assert old in payload
    with pytest.raises((IntegrityError, Exception), match=r"manifest|digest|style|margin"):
        Manifest.from_payload(payload.replace(old, new))


def test_fields_of_a_newer_plane_are_left_alone() -> None:
    payload = MANIFEST.to_payload().replace(b'"counter":1', b'"counter":1,"invented_later":[1,2]')
    assert Manifest.from_payload(payload) == MANIFEST


def test_a_device_gets_the_engine_of_its_best_target() -> None:
    assert MANIFEST.engine_for(["rtx-turing", "ort-cpu"]).target == "rtx-turing"
    assert MANIFEST.engine_for(["rtx-ampere-plus", "ort-cpu"]).target == "ort-cpu"
    with pytest.raises(UnsupportedError, match="this device runs jp6-orin"):
        MANIFEST.engine_for(["jp6-orin"])


def test_an_assignment_survives_and_is_checked() -> None:
    assignment = Assignment("d-1", 4, "r-2", "sha256:" + "c" * 64)
    assert Assignment.from_payload(assignment.to_payload()) == assignment
    with pytest.raises(IntegrityError):
        Assignment.from_payload(b'{"device_id": "d-1"}')
