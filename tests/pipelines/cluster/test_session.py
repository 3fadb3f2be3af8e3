from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from pipelines.cluster.session import ray_session

def sockets():
    # /proc/net/tcp*: local address, state 0A = listening, inode
    out = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                out[fields[9]] = fields[1].split(":")[0]
    return out

LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
before = sockets()
with ray_session(cpus=1):
    import ray

    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    new = {inode: address for inode, address in sockets().items() if inode not in before}
    assert new, "nothing listens, so nothing was checked"
    open_to_others = [a for a in new.values() if a not in LOOPBACK]
    assert not open_to_others, open_to_others
    folder = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
    assert [p.name for p in folder.iterdir() if p.name != "token"]
assert [p.name for p in folder.iterdir()] == ["token"]
with ray_session(cpus=1):  # a second one in the same process
    assert ray.get(ray.remote(lambda: 8).remote()) == 8
    with ray_session(cpus=1):  # and one inside it, which uses it
        pass
    assert ray.is_initialized()
assert not ray.is_initialized()
print(folder)
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads the kernel's table of sockets")
def test_a_local_session_listens_on_loopback_only_and_leaves_the_home_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "XDG_", "MPL"))} | {"HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()
    assert list(home.rglob("*")) == []
