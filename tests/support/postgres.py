"""A PostgreSQL server of a test's own, started with `initdb` and `pg_ctl` on loopback and removed afterwards."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCOUNTS = ("postgres", "nobody")  # the server refuses to run as root


def missing() -> str | None:
    """Why there can be no server here, or None."""
    if program("initdb") is None or program("pg_ctl") is None:
        return "initdb and pg_ctl are not installed"
    if os.geteuid() == 0 and (account() is None or shutil.which("runuser") is None):
        return "PostgreSQL does not run as root, and there is no other account to run it as"
    return None


def program(name: str) -> str | None:
    """Where a program of the server is: on the path, or where Debian and Red Hat keep it."""
    folders = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    return shutil.which(name) or next((p for f in sorted(folders, reverse=True) if (p := shutil.which(name, path=f))), None)


def account() -> str | None:
    """The account to run it as, when this is root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ACCOUNTS if name in known), None)


class PostgresServer:
    """A server that is running. `stop` and `start` let a test take it away and bring it back, with its data and port."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://telltale@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", self.data, "-U", "telltale", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Start and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", self.folder / "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop at once, dropping its connections."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(program(name)), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", str(account()), "--", *command]
        # Output goes to a file: the server would inherit a pipe and hold it open.
        with open(self.folder / "commands", "ab") as output:
            done = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.folder, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {(self.folder / 'commands').read_text()}")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A fresh server, running."""
    folder = Path(tempfile.mkdtemp(prefix="telltale-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, account())
    try:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
