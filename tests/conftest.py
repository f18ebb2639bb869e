"What several tests need."
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]  # the project


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "The folder of real price files beside the project; MESBOT_SHARED_DATA names another. Tests that need it are skipped where it is absent."
    folder = Path(os.environ.get("MESBOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir(): pytest.skip(f"no real price files in {folder}; set MESBOT_SHARED_DATA")
    return folder
