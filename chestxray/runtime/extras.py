"""What only some commands need, and what installs it."""

import importlib.util

_MODULES = {"dicom": ("pydicom", "gdcm")}


def install_hint(extra: str) -> str | None:
    """What to install for an extra, in a sentence; None where it is there. Nothing is imported."""
    missing = [name for name in _MODULES[extra] if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return (
        f"this takes the extra {extra}, of which {' and '.join(missing)} is not installed: "
        f"pip install -r requirements-{extra}.txt"
    )
