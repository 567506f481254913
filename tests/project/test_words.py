import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "unfinished work goes into an issue": ["TO" + "DO", "FIX" + "ME", "X" + "XX"],
    "no registry's host": [
        "pypi" + ".org",
        "python" + "hosted",
        "registry.npm" + "js",
        "crates" + ".io",
        "proxy.golang" + ".org",
        "deb.debian" + ".org",
        "repo1.maven" + ".org",
    ],
    "no path of one machine": ["/opt/" + "wheels", "probe/v" + "/bin", "/work/" + "main", "/root/" + ".pyenv"],
}


def texts() -> list[tuple[str, str]]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    files = [(name, ROOT / name) for name in names]
    return [(name, path.read_text(errors="replace")) for name, path in files if path.is_file()]


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_no_file_holds_a_forbidden_word(reason: str) -> None:
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in FORBIDDEN[reason]))
    read = texts()
    assert len(read) > 20
    found = [f"{name}: {match[0]}" for name, text in read for match in pattern.finditer(text)]
    assert found == []
