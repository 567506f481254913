"""A real server of the S3 protocol: the Versity gateway over a folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GUEST", "SECRET", "S3Server", "gateway"]

VERSION = "v1.8.0"
SECRET = "penstock-test-secret"
GUEST = "guest"
WAIT = 20.0


def gateway() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "penstock" / "servers" / f"versitygw-{VERSION}"
    assert program.exists(), f"{program} is missing: run tools/test-servers"
    return program


@dataclass
class S3Server:
    """A Versity gateway over a folder, on a free local port; it may be stopped and started again."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        for name in ("data/lake", "side"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        guest = {"access": GUEST, "secret": SECRET, "role": "user", "userID": 0, "groupID": 0, "projectID": 0}
        (self.home / "users.json").write_text(json.dumps({"accessAccounts": {GUEST: guest}}))
        keys = {"ROOT_ACCESS_KEY": "penstock", "ROOT_SECRET_KEY": SECRET}
        arguments = ["posix", "--sidecar", str(self.home / "side"), str(self.home / "data")]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [gateway(), "--port", f"127.0.0.1:{self.port}", "--quiet", "--iam-dir", str(self.home), *arguments],
                env=os.environ | keys,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.home / "log").read_text())

    def allow(self, **rights: list[str]) -> None:
        """Allow a guest, who may do nothing otherwise, the actions in the bucket `lake`, each below prefixes."""
        bucket = "arn:aws:s3:::lake"
        allowed = [
            {
                "Effect": "Allow",
                "Principal": {"AWS": [GUEST]},
                "Action": [f"s3:{action}"],
                "Resource": [bucket] if action == "ListBucket" else [f"{bucket}/{one}*" for one in prefixes],
            }
            for action, prefixes in rights.items()
        ]
        (self.home / "side/lake/meta").mkdir(parents=True, exist_ok=True)
        policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        (self.home / "side/lake/meta/policy").write_text(policy)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
