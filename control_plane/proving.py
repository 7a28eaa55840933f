"""Engines that could not run on their builder: which ones no device has run yet, and which device was the first.

Rules
- An engine whose report says that only its prepared ONNX passed the gate is *unproven* until a device of its target has
  tested it on golden frames and committed it. That device's word is the proof, kept by the engine's digest: another
  release with the very same engine needs none.
- What passed the gate is read from the manifest, which the plane itself signed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from control_plane.domain.device import Device, Report
from control_plane.domain.release import EngineProof, Release
from control_plane.store.port import Reading
from maskfleet.errors import UnsupportedError
from maskfleet.manifest import EngineEntry, Envelope, Manifest, VerifiedOn


def manifest_in(release: Release) -> Manifest:
    """What a READY release's manifest says."""
    return Manifest.from_payload(Envelope.from_bytes(release.manifest).payload)


async def unproven(look: Reading, release: Release, devices: Collection[Device]) -> dict[str, str]:
    """Targets whose engines no device has run yet, by those of the devices that would run them."""
    manifest = manifest_in(release)
    open_ = {e.target for e in manifest.engines if not _on_builder(e) and await look.get(EngineProof, e.digest) is None}
    if not open_:
        return {}
    runs = {device.id: manifest.engine_for(device.facts.targets).target for device in devices}
    return {device_id: target for device_id, target in runs.items() if target in open_}


async def proof_by(
    look: Reading, release: Release, device_id: str, report: Report | None, *, now: datetime
) -> EngineProof | None:
    """The proof that a device gives by committing a release; None where none is due.

    Args:
        look: at the store.
        release: that it committed.
        device_id: which device.
        report: what it said last; None where nobody knows.
        now: by the plane's clock.
    """
    device = await look.get(Device, device_id)
    if device is None:
        return None
    entry = _run(manifest_in(release), report, device.facts.targets)
    if entry is None or _on_builder(entry) or await look.get(EngineProof, entry.digest) is not None:
        return None
    return EngineProof(entry.digest, entry.target, device.id, device.name, release.id, now)


def _run(manifest: Manifest, report: Report | None, targets: Iterable[str]) -> EngineEntry | None:
    """The engine that a device runs: of the target that it says, or else of the first that suits it."""
    said = [component.target for component in report.components if component.target] if report is not None else []
    try:
        return manifest.engine_for([*said, *targets])
    except UnsupportedError:
        return None


def _on_builder(entry: EngineEntry) -> bool:
    return entry.verified_on == VerifiedOn.ENGINE.value
