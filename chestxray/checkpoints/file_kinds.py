"""What a file is that is no .pth in zip form, by its first bytes, in words."""

import shlex
from pathlib import Path

# The number with which torch's form of before 2020 begins, as it is pickled there.
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"
_LARGEST_HEADER = 100_000_000  # bytes; the format allows no more


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as a safetensors file: the length of a header, and its "{"."""
    if not path.is_file():
        return False
    start = _start(path)
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER


def describe(path: Path) -> str:
    """Say what a file is that cannot be read as a zip, with the way out where there is one."""
    start = _start(path)
    damaged = f"{path} is not a .pth, or damaged:"
    if not start:
        return f"{damaged} it is empty"
    if start[: len(_ZIP)] == _ZIP[: len(start)]:
        return f"{damaged} it is only the beginning of a file; copy or download it again"
    if start.startswith(_LFS):
        return (
            f"{path} is a Git LFS pointer, which names the file and does not hold it: "
            "`git lfs pull` fetches the file"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return (
            f"{path} is a web page (HTML) and not the file that was meant: its address needs "
            "another click or a login; download it again"
        )
    if is_safetensors(path):
        return (
            f"{path} is a safetensors file, which has weights and no optimizer state: --weights "
            f"{path} starts a new run with them, and --test scores them"
        )
    if start.startswith(_LEGACY) or start[257:262] == b"ustar":
        return f"{damaged} {_legacy(path)}"
    return f"{damaged} it is not in zip form, as torch.save writes it"


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _legacy(path: Path) -> str:
    new = f"{path.stem}_zip.pth"
    program = f"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu'), {new!r})"
    return (
        "it is in torch's form of before 2020, which cannot be read safely; if you trust it, "
        f"rewrite it: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python -c {shlex.quote(program)}"
    )
