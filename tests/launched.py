"""Commands in two processes that work together, as ``accelerate launch`` starts them."""

import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import PATIENCE
from tests.surroundings import ENVIRONMENT


def launched(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """Start two processes of a Python command in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    return subprocess.Popen(
        [*launcher, *address, *command[1:]],
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[bytes]) -> str:
    """What the processes said, which must have ended well."""
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said.decode()
    return said.decode()
