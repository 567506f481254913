"""A certificate authority for tests, and a certificate of `localhost` that it has signed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        program = shutil.which("openssl")
        assert program, "openssl is missing: run tools/test-servers"

        def request(name: str, *more: str) -> None:
            command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *more]
            files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}"]
            subprocess.run([program, *command, *files], cwd=folder, check=True, capture_output=True)

        request("authority")
        signed = ("-CA", "authority.pem", "-CAkey", "authority.key", "-addext", "basicConstraints=critical,CA:FALSE")
        request("localhost", *signed, "-addext", "subjectAltName=DNS:localhost")
        return cls(folder / "authority.pem", folder / "localhost.pem", folder / "localhost.key")
