"""A PostgreSQL of the tests' own, from the distribution's packages, gone when they end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

USER = "goldilocks"
PROGRAMS = ("initdb", "pg_ctl", "postgres")


class PostgresMissingError(Exception):
    """It cannot be started here; says why."""


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    password: str

    @property
    def url(self) -> str:
        """The address of its database, without the password: that is for PGPASSWORD."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def with_password(self, url: str) -> str:
        """Return the address of one of its databases with the password in it."""
        return url.replace("@", f":{quote(self.password, safe='')}@")


@contextmanager
def running() -> Iterator[Server]:
    """Start a server on loopback, and stop it at the end of the block, whatever happens there.

    Raises:
        PostgresMissingError: Its programs, or somebody to run them as, are missing.
    """
    programs = _programs()
    account = _account()
    # Socket paths are short: pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="goldilocks-pg-") as folder:
        data, password = Path(folder) / "data", f"p@:/%{secrets.token_hex(16)}"
        secret = Path(folder) / "password"
        secret.write_text(password)
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
            os.chown(secret, account.pw_uid, account.pw_gid)

        def call(program: str, *arguments: str) -> None:
            # Not through pipes: the server would inherit them, and reading would never end.
            with open(Path(folder) / f"{program}.txt", "w+") as said:
                done = subprocess.run(
                    [programs[program], *arguments],
                    user=None if account is None else account.pw_uid,
                    group=None if account is None else account.pw_gid,
                    extra_groups=None if account is None else (),
                    cwd=folder,
                    env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    timeout=60,
                    check=False,
                )
                said.seek(0)
                assert done.returncode == 0, said.read()

        call(
            "initdb",
            *("--pgdata", str(data), "--username", USER, "--auth", "scram-sha-256"),
            *("--pwfile", str(secret), "--no-sync", "--encoding", "UTF8"),
        )
        port = _free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "fsync": "off",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = str(Path(folder) / "server.log")
        try:
            call("pg_ctl", "start", "--wait", "-D", str(data), "-l", log, "-o", options)
            yield Server(port, password)
        finally:
            if (data / "postmaster.pid").exists():
                call("pg_ctl", "stop", "--wait", "-D", str(data), "-m", "immediate")


def _programs() -> dict[str, str]:
    # Debian keeps those of a server out of PATH, a folder for each version.
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ["PATH"], *map(str, places)])
    found = {name: shutil.which(name, path=path) for name in PROGRAMS}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise PostgresMissingError(f"{', '.join(missing)} of PostgreSQL not found")
    return {name: str(place) for name, place in found.items()}


def _account() -> pwd.struct_passwd | None:
    """Return as whom to run it: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissingError("PostgreSQL does not run as root, and there is no other user")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
