"""A child process that the service owns: its group, its log file, its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from coe.core.errors import EngineError
from coe.core.files import off_the_loop
from coe.engines.vllm.leash import forget, shared_memory

TAIL_BYTES = 16_384
MAX_LOG_BYTES = 50_000_000
MAX_LOGS = 100
INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|LANG|LANGUAGE|TZ|TMPDIR|TMP|TEMP|CC|CXX|VIRTUAL_ENV|CONDA_PREFIX"
    r"|(all|http|https|no|ftp)_proxy|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL|AWS)_CA_BUNDLE|DO_NOT_TRACK"
    r"|(LC|LD|PYTHON|XDG|CUDA|NVIDIA|NCCL|GLOO|UCX|NVSHMEM|CUDNN|CUBLAS|ROCR|ROCM|HIP|HSA|GPU|ZE|ONEAPI|SYCL"
    r"|NVPL|ARMPL|BLIS|ATEN|RCCL|OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|MALLOC|ONEDNN|DNNL|TOKENIZERS|SAFETENSORS|HF|HUGGING_?FACE"
    r"|TRANSFORMERS|PYTORCH|TORCH|TORCHINDUCTOR|TRITON|FLASHINFER|VLLM)(_\w*)?|PYTHON\w+",
    re.IGNORECASE,
)
"""What of the service's environment its processes get: how to find programs, files, devices and the network.
The one secret among it is the token of the model hub, HF_TOKEN."""
WITHHELD = frozenset({"VLLM_API_KEY"})
"""A server that asks for it would refuse us."""


def inherited(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process that runs code of others gets of ``environment``: no keys, tokens or passwords."""
    kept = (name for name in environment if INHERITED.fullmatch(name) and name not in WITHHELD)
    return {name: environment[name] for name in kept}


class LogFile:
    """The output of one process, kept on disk. A new run moves the last one to ``<name>.previous.log``; where
    that still goes on (of another service in the same folder), it writes to ``<name>.2.log``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self) -> BinaryIO:
        """An empty file, held by whoever has it open: our processes. Raises OSError. Blocking."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        first, number = self.path, 1
        while True:
            output = self.path.open("ab")
            if not _hold(output):
                number += 1
                if number > MAX_LOGS:
                    raise OSError(f"{MAX_LOGS} processes write to {first}")
                self.path = first.with_suffix(f".{number}.log")
            elif not _is(self.path, output):
                pass  # it was moved in this moment
            elif self.size():
                self.path.replace(self.path.with_suffix(".previous.log"))
            else:
                return output
            output.close()

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def trim(self) -> int:
        """Empty the file if it has grown too large; its writer appends, so it can go on. Returns the size."""
        if self.size() > MAX_LOG_BYTES:
            shutil.copyfile(self.path, self.path.with_suffix(".previous.log"))
            os.truncate(self.path, 0)
        return self.size()

    def since(self, offset: int) -> str:
        """What was written after ``offset`` bytes."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The last lines, at most :data:`TAIL_BYTES` bytes."""
        text = self.since(max(0, self.size() - TAIL_BYTES))
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


class ManagedProcess:
    """A running command in a process group of its own that ends with us, however we end (see leash.py).

    One owner; every method runs on the loop that spawned it.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: LogFile) -> None:
        self._process, self.log = process, log
        self._exit = asyncio.ensure_future(process.wait())

    @classmethod
    async def spawn(
        cls, argv: Sequence[str], env: Mapping[str, str], log: LogFile, home: Path | None = None
    ) -> ManagedProcess:
        """Start ``argv`` with ``env`` added to what is :func:`inherited`; ``home`` is removed when it has
        ended, however it does. Raises EngineError when it cannot start."""
        leash = Path(__file__).with_name("leash.py")
        try:
            with await off_the_loop(log.begin) as output:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(leash), str(os.getpid()), str(home or ""), *argv),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**inherited(), **env},
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"{argv[0]} cannot be started, or its log not written: {error}") from error
        return cls(process, log)

    @property
    def group(self) -> int:
        """The process group: the leash, the command and what that started."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end; a cancelled waiter leaves the process alone."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, then after ``grace_s`` SIGKILL to the whole group; returns when it is gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.wait()
        await self.sweep()
        await self.wait()

    async def sweep(self, patience_s: float = 5.0) -> None:
        """Kill what is left of the group: workers can survive the death of their leader."""
        deadline = asyncio.get_running_loop().time() + patience_s
        if not group_lives(self.group):
            return
        shared = await off_the_loop(shared_memory, self.group)
        while group_lives(self.group) and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)
            await asyncio.sleep(0.02)
        await off_the_loop(forget, shared, self.group)


def _hold(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, file: BinaryIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def group_lives(group: int) -> bool:
    """Whether a process of the group still runs; one that is dead and only not yet reaped does not."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # it ended while we looked
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
    return False
