"""The whole stack on this machine: a control plane, its builder and agents, each a process of its own.

Everything lies under one directory: ``plane/``, ``builder/``, ``agent-1/`` … and ``logs/``. A process that dies is
started again on the address that it had.

Example::

    with Stack(Path("data"), agents=3) as stack:
        print(stack.plane_address, stack.token_file, [agent.address for agent in stack.agents])
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from fleet.processes import Child, Ready, stop_all
from maskfleet.datadir import write_atomic
from maskfleet.errors import OutputError

PLANE_START_S = 120.0
"""The first start makes two databases, MLflow's takes seconds on a slow disk."""

START_S = 60.0
JOIN_TOKEN_TTL = timedelta(hours=1)


class Stack:
    """Starts with :meth:`start` (or ``with``), ends with :meth:`stop`.

    Args:
        data_dir: everything is kept here.
        agents: how many agents.
        plane_listen: the plane's address; port 0 for any.
        agent_port: port of the first agent, the others follow; 0 for any.
        threads: threads per agent's engine; None for the agent's own choice.
        plane_arguments: added to the plane's command line.
        builder_arguments: added to the builder's.
        agent_arguments: added to each agent's.
        environment: added to this process's own, for all of them.
        report: is told in a sentence what happens to a process; called from several threads.

    Attributes:
        plane: the control plane's process.
        builder: the builder's.
        agents: the agents', in order; each has ``address``, ``pid``, ``state`` and ``kill()``.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        agents: int = 1,
        plane_listen: str = "127.0.0.1:0",
        agent_port: int = 0,
        threads: int | None = None,
        plane_arguments: Sequence[str] = (),
        builder_arguments: Sequence[str] = (),
        agent_arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._report = report
        self._environment = environment
        thread_arguments = ["--threads", str(threads)] if threads else []

        def plane_command(ready: Ready | None) -> list[str]:
            listen = ready["listen"] if ready else plane_listen
            metrics = ready.get("metrics") if ready else None
            return [
                *_python("control_plane", "--data-dir", self.data_dir / "plane", "--listen", listen),
                *("--metrics-listen", str(metrics or "127.0.0.1:0")),
                *plane_arguments,
            ]

        def builder_command(_ready: Ready | None) -> list[str]:
            return [
                *_python("model_compiler", "run", "--plane", self.plane_address),
                *("--token-file", str(self.plane.ready["builder_token_file"])),
                *("--data-dir", str(self.data_dir / "builder")),
                *builder_arguments,
            ]

        def agent_command(index: int) -> Callable[[Ready | None], list[str]]:
            name = f"agent-{index}"
            first = f"127.0.0.1:{agent_port + index - 1 if agent_port else 0}"

            def command(ready: Ready | None) -> list[str]:
                metrics = ready.get("metrics") if ready else None
                return [
                    *_python("edge_agent", "--data-dir", self.data_dir / name, "--plane", self.plane_address),
                    *("--join-token-file", str(self.join_token_file), "--name", name),
                    *("--listen", str(ready["listen"]) if ready else first),
                    *("--metrics-listen", str(metrics or "127.0.0.1:0")),
                    *thread_arguments,
                    *agent_arguments,
                ]

            return command

        self.plane = self._child("plane", plane_command)
        self.builder = self._child("builder", builder_command)
        self.agents = [self._child(f"agent-{i}", agent_command(i)) for i in range(1, agents + 1)]

    def _child(self, name: str, command: Callable[[Ready | None], list[str]]) -> Child:
        return Child(
            name,
            command,
            log=self.data_dir / "logs" / f"{name}.log",
            restart=True,
            report=self._report,
            environment=self._environment,
        )

    @property
    def processes(self) -> list[Child]:
        """All of them: the plane, the builder, the agents."""
        return [self.plane, self.builder, *self.agents]

    @property
    def plane_address(self) -> str:
        """Where the control plane listens."""
        return self.plane.address

    @property
    def token_file(self) -> Path:
        """File with the operator's token."""
        return Path(str(self.plane.ready["operator_token_file"]))

    @property
    def join_token_file(self) -> Path:
        """File with the token that the agents joined with; it holds for an hour."""
        return self.data_dir / "join.token"

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything and waits until it is ready. Where a process fails, those that run are stopped again.

        Raises:
            UnavailableError: a process did not become ready; its log is named.
            InvalidInputError: a process refused its command line.
            OutputError: the directory cannot be written.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(
                f"the data directory {self.data_dir} cannot be used ({error.strerror})",
                remedy="choose one with --data-dir",
            ) from None
        try:
            self.plane.start()
            self.plane.wait_ready(PLANE_START_S)
            self.builder.start()
            write_atomic(self.join_token_file, self._join_token().encode())
            for agent in self.agents:
                agent.start()
            for child in (self.builder, *self.agents):
                child.wait_ready(START_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops everything: agents and builder together, then the plane."""
        stop_all([self.builder, *self.agents])
        self.plane.stop()

    def _join_token(self) -> str:
        from google.protobuf import duration_pb2

        from fleet.plane import Plane
        from maskfleet.v1 import devices_service_pb2

        ttl = duration_pb2.Duration()
        ttl.FromTimedelta(JOIN_TOKEN_TTL)
        with Plane(self.plane_address, token=self.token_file.read_text().strip()) as plane:
            request = devices_service_pb2.CreateJoinTokenRequest(ttl=ttl)
            return plane.call(plane.devices.CreateJoinToken, request).token


def _python(module: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]
