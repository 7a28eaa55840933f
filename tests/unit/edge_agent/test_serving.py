"""How one release takes another's place."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from edge_agent.engines.engine import EngineInfo, FloatArray
from edge_agent.serving import LoadedRelease, Serving
from maskfleet.decoding import DECODERS
from maskfleet.policy import MaskPolicy


class Closable:
    """An engine that remembers whether it was closed."""

    info = EngineInfo("ort-cpu", "none", "0", 64, 64, ())

    def __init__(self) -> None:
        self.closed = 0

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        assert not self.closed, "a closed engine was run"
        return {"heatmap": blob}

    def close(self) -> None:
        self.closed += 1


def release(name: str) -> tuple[LoadedRelease, Closable]:
    engine = Closable()
    return LoadedRelease(name, f"sha256:{name}", engine, DECODERS["centerface"], MaskPolicy()), engine


def test_a_swap_takes_effect_with_the_next_frame_and_closes_the_old_engine_after_the_last() -> None:
    serving = Serving()
    first, first_engine = release("1")
    second, second_engine = release("2")
    with serving.held() as nothing:
        assert nothing is None
    serving.swap(first)
    with serving.held() as frame_one, serving.held() as frame_two:
        serving.swap(second)
        assert frame_one is frame_two is first
        assert first_engine.closed == 0
        with serving.held() as frame_three:
            assert frame_three is second
    assert (first_engine.closed, second_engine.closed) == (1, 0)
    serving.swap(None)
    assert second_engine.closed == 1
    assert serving.current() is None


def test_a_frame_that_raises_gives_its_release_back() -> None:
    serving = Serving()
    first, engine = release("1")
    serving.swap(first)
    try:
        with serving.held():
            raise RuntimeError
    except RuntimeError:
        pass
    serving.swap(None)
    assert engine.closed == 1


def test_no_frame_of_many_threads_ever_runs_a_closed_engine() -> None:
    serving = Serving()
    engines = []
    failures: list[BaseException] = []
    stop = threading.Event()
    serving.swap(release("0")[0])

    def frames() -> None:
        try:
            while not stop.is_set():
                with serving.held() as held:
                    assert held is not None
                    held.engine.infer(None)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    threads = [threading.Thread(target=frames) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 200):
        new, engine = release(str(number))
        engines.append(engine)
        serving.swap(new)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert [e.closed for e in engines] == [1] * 198 + [0]
