"The house is in order: every room has its notebook, imports only point upward, heavy libraries stay outside, everything is locked."
import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser

import pytest
from conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("nbs/*.ipynb"))
ROOMS = sorted(p.stem for p in ROOT.glob("mesbot/*.py") if not p.stem.startswith("_"))


def code_cells(path): return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def room_of(path):
    names = [m.group(1) for cell in code_cells(path) for m in [re.match(r"#\|\s*default_exp\s+(\S+)", cell)] if m]
    assert len(names) <= 1, f"{path.name} exports {names}"
    return names[0] if names else None


ORDER = [room for room in map(room_of, NOTEBOOKS) if room]  # reading order


def imported_rooms(room):
    found = set()
    for node in ast.walk(ast.parse((ROOT / "mesbot" / f"{room}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1: found |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("mesbot."): found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import): found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("mesbot.")}
    return found


def test_every_room_has_one_notebook_and_every_notebook_a_room():
    assert len(set(ORDER)) == len(ORDER), "two notebooks export one room"
    assert sorted(ORDER) == ROOMS
    assert {path.name for path in NOTEBOOKS if room_of(path) is None} == {"index.ipynb"}


@pytest.mark.parametrize("room", ORDER)
def test_imports_only_point_upward(room):
    below = imported_rooms(room) - set(ORDER[:ORDER.index(room)])
    assert not below, f"{room} imports {sorted(below)}, which the book tells later"


def test_the_index_names_every_notebook():
    index = (ROOT / "nbs" / "index.ipynb").read_text()
    assert [p.stem for p in NOTEBOOKS if p.stem != "index" and f"`{p.stem}`" not in index] == []


def test_rooms_that_a_runner_needs_load_nothing_heavy():
    needed = ["core", "calendar", "config", "bars", "features", "predictors", "model_files", "registry", "costs", "risk", "stops", "account", "trader", "cli"]
    heavy = {"torch", "vectorbt", "matplotlib", "sklearn", "papermill", "nbconvert", "IPython", "plotly", "databento", "polars", "pandas_market_calendars", "onnx", "safetensors"}
    code = f"import sys\nfor room in {needed}: __import__('mesbot.' + room)\nprint(*sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert found == []


def test_kernels_are_declared_by_the_one_decorator():
    "A bare njit would serve stale code from its cache (see core)."
    offenders = [f"{room}: {line.strip()}" for room in ROOMS for line in (ROOT / "mesbot" / f"{room}.py").read_text().splitlines()
                 if re.search(r"\bn?jit\b|fastmath", line) and not (room == "core" and "numba.njit" in line)]
    assert [o for o in offenders if "No fastmath" not in o] == []


def test_one_new_york():
    "No second timezone: every other room takes `calendar.NY`."
    assert [room for room in ROOMS if "America/New_York" in (ROOT / "mesbot" / f"{room}.py").read_text()] == ["calendar"]


def exported(path): return [cell for cell in code_cells(path) if cell.startswith("#| export")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_stay_readable(path):
    "Limits of the house style: 40 exported lines a cell (one loop may have 80), 300 in all, empty ones aside; a title, a line saying what it gives, a why; asserts in view."
    lines = [len([line for line in cell.splitlines()[1:] if line.strip()]) for cell in exported(path)]
    assert sum(lines) <= 300 and max(lines, default=0) <= 80 and sum(n > 46 for n in lines) <= (path.stem == "03e_tape"), lines
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert first.startswith("# ") and "\n> " in first and (path.stem == "index" or "**Why.**" in first)
    if exported(path): assert any("assert" in cell and not cell.startswith("#| export") for cell in code_cells(path))


def test_notebooks_are_committed_run():
    "Code cells that print or plot keep their output; nothing was left unrun or failed."
    for path in NOTEBOOKS:
        outputs = [o for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
        assert outputs, f"{path.name} was never run"
        assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"], path.name


def names_of(requirements): return {re.split(r"[<>=!~\[]", word)[0].lower().replace("_", "-") for word in requirements.split()}


def test_every_requirement_is_locked_and_every_import_required():
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini")
    fact = ini["DEFAULT"]
    locked = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = names_of(" ".join(fact[key] for key in fact if key.endswith("requirements")))
    assert wanted - locked == set()
    modules = {"sklearn": "scikit-learn", "pydantic": "pydantic-settings", "nbformat": "nbconvert", "scipy": "scikit-learn", "threadpoolctl": "scikit-learn", "databento_dbn": "databento", "requests": "databento", "llvmlite": "numba"}
    used = set()
    for room in ROOMS:
        for node in ast.walk(ast.parse((ROOT / "mesbot" / f"{room}.py").read_text())):
            if isinstance(node, ast.Import): used |= {name.name.split(".")[0] for name in node.names}
            if isinstance(node, ast.ImportFrom) and node.level == 0: used.add(node.module.split(".")[0])
    outside = {modules.get(name, name).replace("_", "-") for name in used - set(sys.stdlib_module_names) - {"mesbot"}}
    assert outside - names_of(" ".join(fact[key] for key in ("requirements", "data_requirements", "live_requirements", "research_requirements", "cluster_requirements"))) == set()


def test_the_runner_stands_on_the_library_and_on_little_else():
    "Plain Python: small files with a docstring, nothing of research, everything it imports named and locked; the library never looks back."
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini")
    allowed = names_of(" ".join(ini["DEFAULT"][key] for key in ("requirements", "live_requirements"))) | {"mesbot", "pydantic"}
    files = sorted((ROOT / "live_runner").glob("**/*.py"))
    assert len(files) > 20
    for path in files:
        text, tree = path.read_text(), ast.parse(path.read_text())
        used = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        used |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
        assert {name.replace("_", "-") for name in used - set(sys.stdlib_module_names)} <= allowed, path
        assert len(text.splitlines()) <= 320 and (ast.get_docstring(tree) or not text), path
        assert not re.search(r"except[^\n]*:\s*pass\b", text) and "TODO" not in text, path
    for room in ROOMS: assert "live_runner" not in (ROOT / "mesbot" / f"{room}.py").read_text(), room


def test_nothing_large_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split("\n")
    assert [name for name in tracked if name and (ROOT / name).exists() and (ROOT / name).stat().st_size > 1_000_000] == []
