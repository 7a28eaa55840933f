"""An update from assignment to commit, and every way in which it is refused, with the committed release serving on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.engines.engine import Engine, EngineInfo, FloatArray
from edge_agent.serving import Serving
from edge_agent.updates.messages import Desired, Report
from edge_agent.updates.reconcile import MAX_ATTEMPTS, State
from edge_agent.updates.slots import Slots
from edge_agent.updates.steps import Tools
from edge_agent.updates.updater import Updater
from maskfleet.clock import FakeClock
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import DiskFullError, EngineError, IntegrityError, NotFoundError, SelfTestError, UnavailableError
from maskfleet.ids import digest_bytes, fingerprint
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

KEY = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
DEVICE = "d-1"
GOOD, BETTER, BAD, BROKEN = b"good engine", b"better engine", b"bad engine", b"broken engine"


class FileEngine:
    """An engine that is what its file says."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.closed = 0

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("ort-cpu", "onnxruntime", "1", 64, 64, ())

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        return {}

    def close(self) -> None:
        self.closed += 1


class Device:
    """A device with real slots and a real updater, driven turn by turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.artifacts = {digest_bytes(data): data for data in (GOOD, BETTER, BAD, BROKEN)}
        self.fetched: list[str] = []
        self.engines: list[FileEngine] = []
        self.reports: list[Report] = []
        self.away = False
        self.start()

    def start(self) -> None:
        self.serving = Serving()
        self.updater = Updater(
            Slots.opened(self.path),
            self.serving,
            Tools(
                fetch=self.fetch,
                load=self.load,
                self_test=self.self_test,
                trusted=lambda: {fingerprint(public_bytes(KEY)): public_bytes(KEY)},
                report=self.reports.append,
            ),
            device_id=DEVICE,
            targets=("ort-cpu",),
            soak_s=3.0,
            clock=self.clock,
        )

    def fetch(self, digest: str, offset: int) -> Iterator[tuple[int, bytes]]:
        if self.away:
            raise UnavailableError("the plane is away")
        if digest not in self.artifacts:
            raise NotFoundError("no such artifact")
        self.fetched.append(digest)
        yield len(self.artifacts[digest]), self.artifacts[digest][offset:]

    def load(self, target: str, path: Path, decoder: DecoderSpec) -> Engine:
        data = path.read_bytes()
        if data == BROKEN:
            raise EngineError("the runtime refuses it", remedy="build it again")
        self.engines.append(FileEngine(data))
        return self.engines[-1]

    def self_test(self, engine: Engine, decoder: DecoderSpec, policy: MaskPolicy) -> None:
        if self.engines[-1].data == BAD:
            raise SelfTestError("the engine finds 0 of 1 faces")

    def settle(self) -> Report:
        """Turns until there is nothing left to do, time included."""
        for _ in range(100):
            until = self.updater.turn()
            if until is None:
                return self.reports[-1]
            self.clock.advance(timedelta(seconds=max(0.0, until - self.clock.monotonic())))
        raise AssertionError(f"never settles: {self.reports[-1]}")

    def until(self, state: State) -> None:
        """Turns until a state is reached, without time going on."""
        for _ in range(20):
            self.updater.turn()
            if self.reports and self.reports[-1].state is state:
                return
        raise AssertionError(f"never {state}: {self.reports[-1]}")

    def serves(self) -> str:
        current = self.serving.current()
        return current.release_id if current else ""


def desired(
    generation: int,
    release: str,
    engine: bytes,
    *,
    key: Ed25519PrivateKey = KEY,
    device: str = DEVICE,
    policy: MaskPolicy | None = None,
    target: str = "ort-cpu",
    decoder: str = "centerface",
) -> Desired:
    entry = EngineEntry(target, digest_bytes(engine), len(engine), "onnxruntime", "1", "fp32", "engine")
    payload = Manifest(release, 1, "", "m", 1, "", decoder, 640, 352, policy or MaskPolicy(), (entry,)).to_payload()
    assignment = Assignment(device, generation, release, release_digest(payload))
    return Desired(
        generation,
        Envelope.signed(assignment.to_payload(), ASSIGNMENT_TYPE, [key]).to_bytes(),
        Envelope.signed(payload, MANIFEST_TYPE, [key]).to_bytes(),
    )


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device on which r-1 is committed."""
    made = Device(tmp_path)
    made.updater.desire(desired(1, "r-1", GOOD))
    assert made.settle().state is State.COMMITTED
    return made


def test_a_release_goes_through_every_state_and_serves(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.updater.desire(desired(1, "r-1", GOOD))
    report = device.settle()
    assert (report.state, report.generation, report.serving_release_id) == (State.COMMITTED, 1, "r-1")
    seen = list(dict.fromkeys(r.state for r in device.reports))
    assert seen == [
        State.EMPTY, State.DOWNLOADING, State.VERIFYING, State.LOADING, State.TESTING, State.SOAKING, State.COMMITTED,
    ]  # fmt: skip


def test_the_next_release_takes_over_and_the_old_engine_is_closed(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    assert device.serves() == "r-2"
    assert device.engines[0].closed == 0, "it must be there to go back to"
    assert device.settle().state is State.COMMITTED
    assert [engine.closed for engine in device.engines] == [1, 0]


def test_another_policy_takes_neither_a_download_nor_a_load(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", GOOD, policy=MaskPolicy(style=Style.SOLID)))
    assert device.settle().state is State.COMMITTED
    current = device.serving.current()
    assert current is not None
    assert (current.release_id, current.policy.style) == ("r-2", Style.SOLID)
    assert (len(device.fetched), len(device.engines), device.engines[0].closed) == (1, 1, 0)


def test_a_rollback_takes_no_download(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.settle()
    device.updater.desire(desired(3, "r-1", GOOD))
    assert (device.settle().state, device.serves(), len(device.fetched)) == (State.COMMITTED, "r-1", 2)


def test_the_same_release_under_a_new_generation_is_settled_at_once(device: Device) -> None:
    device.updater.desire(desired(2, "r-1", GOOD))
    report = device.settle()
    assert (report.state, report.generation, len(device.engines)) == (State.COMMITTED, 2, 1)


def said_well(said: Desired) -> bool:
    """Whether its assignment is the plane's, and for this device: then its end is remembered over a restart."""
    try:
        envelope = Envelope.from_bytes(said.assignment)
        payload = envelope.opened(ASSIGNMENT_TYPE, {fingerprint(public_bytes(KEY)): public_bytes(KEY)})
    except IntegrityError:
        return False
    return Assignment.from_payload(payload).device_id == DEVICE


@pytest.mark.parametrize(
    ("said", "generation", "words"),
    [
        pytest.param(desired(2, "r-2", BETTER, key=OTHER), 2, "no trusted key", id="signed by a stranger"),
        pytest.param(desired(2, "r-2", BETTER, device="d-2"), 2, "for device d-2", id="for another device"),
        pytest.param(Desired(2, b"{}", b"{}"), 2, "cannot be read", id="no envelope"),
        pytest.param(
            Desired(2, desired(2, "r-2", BETTER).assignment, desired(2, "r-3", BETTER).manifest),
            2,
            "the assignment names",
            id="another release's manifest",
        ),
        pytest.param(
            Desired(2, desired(2, "r-2", BETTER).assignment, desired(2, "r-2", BETTER, key=OTHER).manifest),
            2,
            "no trusted key",
            id="a stranger's manifest",
        ),
        pytest.param(
            desired(2, "r-2", BETTER, target="rtx-turing"), 2, "this device runs ort-cpu", id="no engine for it"
        ),
        pytest.param(desired(2, "r-2", BETTER, decoder="newer"), 2, "no decoder 'newer'", id="a decoder of tomorrow"),
        pytest.param(desired(2, "r-2", BAD), 2, "0 of 1 faces", id="an engine that fails its self-test"),
        pytest.param(desired(2, "r-2", BROKEN), 2, "the runtime refuses", id="an engine that does not load"),
        pytest.param(desired(2, "r-2", b"nowhere"), 2, "no such artifact", id="an engine that is not in the store"),
    ],
)
def test_it_is_refused_and_the_old_release_serves_on(
    device: Device, said: Desired, generation: int, words: str
) -> None:
    device.updater.desire(said)
    report = device.settle()
    assert (report.state, report.generation) == (State.REVERTED, generation)
    assert words in report.reason
    assert (device.serves(), report.serving_release_id) == ("r-1", "r-1")
    assert device.engines[0].closed == 0
    assert all(engine.closed == 1 for engine in device.engines[1:])
    device.updater.desire(said)
    turns = len(device.engines)
    device.settle()
    assert len(device.engines) == turns, "what was refused is not tried again"
    device.start()
    restarted = device.settle()
    kept = (State.REVERTED, report.reason) if said_well(said) else (State.COMMITTED, "")
    assert (device.serves(), restarted.state, restarted.reason) == ("r-1", *kept)
    device.updater.desire(desired(3, "r-3", BETTER))
    assert (device.settle().state, device.serves()) == (State.COMMITTED, "r-3")


def test_an_old_assignment_is_refused_and_changes_nothing(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.settle()
    device.updater.desire(desired(1, "r-1", GOOD))
    report = device.settle()
    assert (report.generation, report.state, device.serves()) == (2, State.COMMITTED, "r-2")
    assert "older than 2" in report.reason


def test_wrong_bytes_are_fetched_once_more(device: Device) -> None:
    digest = digest_bytes(BETTER)
    device.artifacts[digest] = BETTER[::-1]
    device.updater.desire(desired(2, "r-2", BETTER))
    report = device.settle()
    assert (report.state, device.fetched.count(digest), device.serves()) == (State.REVERTED, 2, "r-1")
    assert "its manifest says" in report.reason
    assert not list(device.path.glob("parts/*"))


def test_an_absent_plane_is_waited_for(device: Device) -> None:
    device.away = True
    device.updater.desire(desired(2, "r-2", BETTER))
    device.updater.turn()
    first = device.updater.turn()
    assert first is not None
    assert first > device.clock.monotonic()
    assert "the plane is away" in device.reports[-1].reason
    device.away = False
    device.updater.poke()
    assert device.settle().state is State.COMMITTED
    assert device.reports[-1].reason == ""


def test_a_failing_engine_is_taken_back_during_the_soak(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    device.updater.engine_failed("r-1", "a frame of the old release that was late")
    assert device.updater.turn() is not None
    assert device.serves() == "r-2"
    device.updater.engine_failed("r-2", "the engine raised")
    report = device.settle()
    assert (report.state, device.serves(), report.serving_release_id) == (State.REVERTED, "r-1", "r-1")
    assert "the engine raised" in report.reason
    assert [engine.closed for engine in device.engines] == [0, 1]


def test_something_newer_ends_the_soak_of_what_is_tried(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    device.updater.desire(desired(3, "r-1", GOOD))
    report = device.settle()
    assert (report.state, report.generation, device.serves()) == (State.COMMITTED, 3, "r-1")
    assert [engine.closed for engine in device.engines] == [0, 1]


def test_a_restart_comes_back_on_the_committed_release(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    device.start()
    report = device.settle()
    assert (device.serves(), report.serving_release_id, report.generation) == ("r-1", "r-1", 1)
    device.updater.desire(desired(2, "r-2", BETTER))
    assert (device.settle().state, device.serves(), len(device.fetched)) == (State.COMMITTED, "r-2", 2)


def test_a_release_that_kills_the_process_is_given_up(device: Device) -> None:
    for _ in range(MAX_ATTEMPTS):
        device.updater.desire(desired(2, "r-2", BETTER))
        device.until(State.TESTING)
        device.start()
    device.updater.desire(desired(2, "r-2", BETTER))
    report = device.settle()
    assert (report.state, device.serves()) == (State.REVERTED, "r-1")
    assert "the agent ended 3 times" in report.reason


def test_a_damaged_committed_slot_serves_nothing_and_is_fetched_again(device: Device) -> None:
    (device.path / "a" / "engine").write_bytes(GOOD[::-1])
    device.start()
    report = device.settle()
    assert (device.serves(), report.state) == ("", State.EMPTY)
    assert "its manifest says" in report.reason
    device.updater.desire(desired(1, "r-1", GOOD))
    assert (device.settle().state, device.serves()) == (State.COMMITTED, "r-1")


def test_a_committed_release_that_does_not_load_just_now_is_tried_again(device: Device) -> None:
    real, device.load = device.load, raising(EngineError("the GPU is busy"))  # type: ignore[assignment, method-assign]
    device.start()
    device.updater.turn()
    assert device.serves() == ""
    assert "the GPU is busy" in device.reports[-1].reason
    device.load = real  # type: ignore[method-assign]
    device.start()
    device.settle()
    assert device.serves() == "r-1"


def test_a_committed_release_that_fails_its_self_test_serves_nothing_and_is_tried_again(device: Device) -> None:
    real, device.self_test = device.self_test, raising(SelfTestError("it finds 0 of 1 faces"))  # type: ignore[assignment, method-assign]
    device.start()
    until = device.updater.turn()
    assert until is not None
    assert device.serves() == ""
    assert "0 of 1 faces" in device.reports[-1].reason
    assert device.engines[-1].closed == 1
    assert (device.path / "a" / "engine").exists(), "the file is not to blame"
    device.self_test = real  # type: ignore[method-assign]
    device.start()
    device.settle()
    assert device.serves() == "r-1"


def test_a_plane_that_wants_nothing_changes_nothing(device: Device) -> None:
    device.updater.desire(Desired(0, b"", b""))
    assert (device.settle().state, device.serves()) == (State.COMMITTED, "r-1")


def recall(generation: int) -> Desired:
    """An assignment to nothing but what is committed."""
    payload = Assignment(DEVICE, generation, "", "").to_payload()
    return Desired(generation, Envelope.signed(payload, ASSIGNMENT_TYPE, [KEY]).to_bytes(), b"")


def test_a_recall_goes_back_to_what_is_committed(device: Device) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    device.updater.desire(recall(3))
    report = device.settle()
    assert (report.generation, report.state, report.release_id, device.serves()) == (3, State.COMMITTED, "r-1", "r-1")


def test_a_recall_on_an_empty_device_leaves_it_empty(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.away = True
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.DOWNLOADING)
    device.updater.desire(recall(3))
    report = device.settle()
    assert (report.generation, report.state, device.serves()) == (3, State.EMPTY, "")


def test_a_full_disk_at_the_wrong_moment_does_not_commit_what_failed(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "revert", raising(DiskFullError("no room left", remedy="free some space")))
        device.updater.engine_failed("r-2", "the engine raised")
        for _ in range(5):
            device.updater.turn()
            device.clock.advance(timedelta(seconds=10))
        assert device.serves() == "r-1"
    report = device.settle()
    assert (report.state, report.generation, device.serves()) == (State.REVERTED, 2, "r-1")
    assert "the engine raised" in report.reason
    device.start()
    device.settle()
    assert device.serves() == "r-1"


def test_a_full_disk_at_the_commit_is_waited_out(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.updater.desire(desired(2, "r-2", BETTER))
    device.until(State.SOAKING)
    device.clock.advance(timedelta(seconds=5))
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "commit", raising(DiskFullError("no room left", remedy="free some space")))
        device.updater.turn()
        assert (device.reports[-1].state, device.serves()) == (State.SOAKING, "r-2")
        assert "no room left" in device.reports[-1].reason
    assert device.settle().state is State.COMMITTED


def test_a_late_word_of_a_failing_engine_changes_nothing(device: Device) -> None:
    device.updater.engine_failed("r-1", "late")
    assert device.updater.turn() is None
    assert device.serves() == "r-1"


def raising(error: Exception) -> Callable[..., None]:
    def method(*_: object) -> None:
        raise error

    return method
