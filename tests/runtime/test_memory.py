"""Free memory, also under the limits of a container or batch job."""

import subprocess
import sys
from pathlib import Path

import torch
from helpers import ROOT

from chestxray.runtime import memory


def group(folder: Path, limit: str, current: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_file {cached}\n")


def test_the_tightest_limit_counts_without_its_file_cache(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/slurm/job_7\n")
    group(tmp_path / "slurm", "1000", current=900, cached=50)
    group(tmp_path / "slurm" / "job_7", "700", current=100)
    assert memory.container_memory(tmp_path, own) == 150
    group(tmp_path / "slurm" / "job_7", "110", current=100)
    assert memory.container_memory(tmp_path, own) == 10


def test_without_limits_there_is_no_limit(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a\n")
    group(tmp_path / "a", "max", current=900)
    assert memory.container_memory(tmp_path, own) is None
    assert memory.container_memory(tmp_path, tmp_path / "absent") is None


def test_free_memory_is_some_of_the_machines() -> None:
    assert 0 < memory.free_memory(torch.device("cpu")) < 1 << 50


def test_a_limit_of_the_address_space_is_free_memory_too() -> None:
    program = """
import resource, torch
from chestxray.runtime.memory import free_memory
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
print(free_memory(torch.device("cpu")))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**34
