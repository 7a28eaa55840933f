"""A PostgreSQL of the tests' own: a cluster in a folder, on a Unix socket, gone afterwards. Needs the standard library.

    python3 tests/postgres.py start FOLDER     prints its URL
    python3 tests/postgres.py stop FOLDER

PostgreSQL refuses to run as root; root runs it as the user ``postgres``, whom the package made.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path


class NoPostgresError(Exception):
    """There is none on this machine, or it does not start."""


def binaries() -> Path | None:
    """Folder of initdb and pg_ctl; the newest version's where there are several. Debian keeps them off the PATH."""
    versions = [p for p in Path("/usr/lib/postgresql").glob("*/bin/pg_ctl") if p.parts[-3].isdigit()]
    if versions:
        return max(versions, key=lambda p: int(p.parts[-3])).parent
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found else None


def _owner() -> list[str]:
    """As whom it runs: the beginning of each command line."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        raise NoPostgresError("PostgreSQL does not run as root, and there is no user postgres") from None
    # Not subprocess's own user=: it forks, which a process full of gRPC's threads does not survive each time.
    return ["runuser", "-u", "postgres", "--"]


class Cluster:
    """A cluster in a folder.

    Args:
        folder: short (a socket's path has 107 characters at most), and such that others may enter it where root starts
            the cluster.

    Raises:
        NoPostgresError: there is no PostgreSQL here.
    """

    def __init__(self, folder: Path) -> None:
        found = binaries()
        if found is None:
            raise NoPostgresError("PostgreSQL is not installed (apt-get install postgresql)")
        self._binaries = found
        self._owner = _owner()
        self.folder = folder
        self.data = folder / "pg"
        self.url = f"postgresql://postgres@/postgres?host={self.data}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._owner, str(self._binaries / program), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, cwd=self.data,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode:
            raise NoPostgresError(f"{program} failed ({done.returncode}): {' '.join(done.stdout.split())[-500:]}")

    def start(self) -> None:
        """Makes the cluster where there is none, and starts it.

        Raises:
            NoPostgresError: it does not start, and what it said.
        """
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            if self._owner:
                shutil.chown(self.data, "postgres")
            self._run("initdb", "-D", ".", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
            # On a socket in a folder that nobody else enters; and a power cut may take it all.
            options = f"listen_addresses=''\nunix_socket_directories='{self.data}'\nfsync=off\nmax_connections=60\n"
            with (self.data / "postgresql.conf").open("a") as file:
                file.write(options)
        # Its output goes to a file: a pipe would stay open as long as it runs.
        self._run("pg_ctl", "-D", ".", "-w", "-t", "60", "-l", "log", "start")

    def stop(self, how: str = "fast") -> None:
        """Stops it: ``fast`` ends the connections, ``immediate`` is a crash."""
        self._run("pg_ctl", "-D", ".", "-w", "-t", "60", "-m", how, "stop")

    def remove(self) -> None:
        """Stops it and deletes everything."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """The command line; the exit status."""
    match arguments:
        case ["start" | "stop" as what, folder]:
            try:
                cluster = Cluster(Path(folder).resolve())
                if what == "start":
                    cluster.start()
                    sys.stdout.write(f"{cluster.url}\n")
                else:
                    cluster.remove()
            except NoPostgresError as error:
                sys.stderr.write(f"error: {error}\n")
                return 1
            return 0
    sys.stderr.write("usage: postgres.py start|stop FOLDER\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
