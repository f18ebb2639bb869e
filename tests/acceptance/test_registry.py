"Models on disk and their registry: refused by name, rolled back in one command, whole after a kill (FEA-5, MOD-8)."
import json
import multiprocessing
import os
import shutil
import signal

import filelock
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import mesbot.model_files
import mesbot.registry
import mesbot.tickfile
from mesbot import model_commands
from mesbot.config import load_config
from mesbot.features import FEATURES
from mesbot.model_files import (ChangedFile, MissingFile, MissingScaler, ModelRefused, TruncatedFile, UnknownKind, WrongCalibration, WrongConfig, WrongFeatures, WrongFormat,
                                WrongScaler, about_config, copy_model, load_predictor, model_hash, read_manifest, save_predictor)
from mesbot.ensembles import KINDS
from mesbot.registry import (BrokenHistory, NotPromoted, NotRegistered, current_version, history, load_current, models, promote, register, roll_back, version_numbers, versions)
from mesbot.store import lock_file

modest = settings(max_examples=150, deadline=None, derandomize=True, database=None)
forked = multiprocessing.get_context("fork")
CONFIG = load_config()
FILES = ("weights.f32", "facts.json", "manifest.json", "manifest.sha256")


class Tilt:
    "A predictor with all that a net has: scaler, calibration, weights in a file."
    def __init__(self, weights, mean=(0.1, 0.2), temperature=1.25, horizon_s=30): self.weights, self.mean, self.temperature, self.horizon_s = np.float32(weights), list(mean), temperature, horizon_s

    def to_files(self):
        return {"kind": "Tilt", "horizon_s": self.horizon_s, "scaler": {"mean": self.mean}, "calibration": {"temperature": self.temperature}}, {"weights.f32": self.weights.tobytes()}

    @staticmethod
    def from_files(facts, files): return Tilt(np.frombuffer(files["weights.f32"], np.float32), facts["scaler"]["mean"], facts["calibration"]["temperature"], facts["horizon_s"])


@pytest.fixture(autouse=True, scope="module")
def kinds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "Tilt", Tilt.from_files)
        yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A model folder; whoever changes a file puts it back."
    folder = tmp_path_factory.mktemp("model") / "tilt"
    save_predictor(Tilt([1, -2, 3]), folder, about_config(CONFIG) | {"data_hash": "0123456789ab", "latency": {"p50_us": 9.5, "p95_us": 12.0, "p99_us": 20.25}})
    return folder


class Replaced:
    "A file of a folder with other bytes (None: gone), for the time of a `with`."
    def __init__(self, folder, name, data): self.path, self.data = folder / name, data
    def __enter__(self):
        self.whole = self.path.read_bytes()
        self.path.unlink() if self.data is None else self.path.write_bytes(self.data)
    def __exit__(self, *_): self.path.write_bytes(self.whole)


def refusal(folder, name, data, config=CONFIG):
    "Type of the refusal when one file is replaced; None when it is accepted."
    with Replaced(folder, name, data):
        try: load_predictor(folder, config)
        except ModelRefused as e:
            assert "\n" not in str(e) and str(folder) in str(e)
            return type(e)


def registry(root, count=3):
    "A model `m` with so many versions; the first weight tells them apart."
    return [register(Tilt([k, 0]), "m", root, about_config(CONFIG), "minor") for k in range(count)]


# ---- FEA-5, MOD-8: what is loaded is what was saved

@settings(modest, max_examples=40)
@given(weights=st.lists(st.floats(width=32), min_size=1, max_size=9), mean=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5), temperature=st.floats(0.1, 20))
def test_a_model_comes_back_to_the_last_bit(tmp_path_factory, weights, mean, temperature):
    "MOD-8: weights, scaler and calibration are the same bits; what the training said about it too."
    folder, saved = tmp_path_factory.mktemp("trip") / "a/b/tilt", Tilt(weights, mean, temperature)
    save_predictor(saved, folder, about_config(CONFIG) | {"trained_to": "2024-06-28"})
    back = load_predictor(folder, CONFIG)
    assert back.weights.tobytes() == saved.weights.tobytes() and (back.mean, back.temperature, back.horizon_s) == (saved.mean, saved.temperature, 30)
    assert read_manifest(folder)["about"]["trained_to"] == "2024-06-28" and sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_the_manifest_says_what_it_was_made_of(folder):
    "MOD-7, MOD-8: features in order, hashes of everything, latency."
    said = read_manifest(folder)
    assert tuple(said["features"]) == tuple(FEATURES) and said["about"]["latency"] == {"p50_us": 9.5, "p95_us": 12.0, "p99_us": 20.25} and said["about"]["labels"]["horizon_s"] == 30
    assert all(len(said[key]) == 64 for key in ("scaler_hash", "calibration_hash")) and {"weights.f32", "facts.json"} == set(said["files"]) and said["code_hash"] and said["created_utc"]


def test_each_mismatch_has_its_name(folder, monkeypatch):
    "FEA-5, MOD-8: features, scaler, calibration, settings, kind, format, files."
    whole = {name: (folder / name).read_bytes() for name in FILES}
    facts = json.loads(whole["facts.json"])
    def with_facts(**changes): return json.dumps({k: v for k, v in (facts | changes).items() if v is not None}).encode() + b"\n"
    assert refusal(folder, "facts.json", with_facts(scaler={"mean": [0.2, 0.1]})) is WrongScaler
    assert refusal(folder, "facts.json", with_facts(scaler=None)) is MissingScaler
    assert refusal(folder, "facts.json", with_facts(calibration={"temperature": 1.0})) is WrongCalibration is refusal(folder, "facts.json", with_facts(calibration=None))
    assert refusal(folder, "facts.json", with_facts(horizon_s=60)) is ChangedFile
    assert refusal(folder, "weights.f32", whole["weights.f32"][:-4]) is TruncatedFile and refusal(folder, "weights.f32", whole["weights.f32"] + b"\0") is ChangedFile
    assert refusal(folder, "manifest.json", whole["manifest.json"].replace(b'"format": 1', b'"format": 9')) is WrongFormat
    assert refusal(folder, "manifest.json", whole["manifest.json"].replace(b"12.0", b"11.0")) is ChangedFile
    assert refusal(folder, "manifest.json", whole["manifest.json"][:-2]) is TruncatedFile and refusal(folder, "manifest.json", b"{[]\n}\n") is ChangedFile
    assert all(refusal(folder, name, None) is MissingFile for name in FILES)
    for changes in ({"horizon_s": 60}, {"threshold_ticks": 4}, {"kind": "barrier"}):
        with pytest.raises(WrongConfig, match=next(iter(changes))): load_predictor(folder, load_config(labels=changes))
    swapped = [FEATURES[1], FEATURES[0], *FEATURES[2:]]
    assert refusal(folder, "manifest.json", json.dumps(json.loads(whole["manifest.json"]) | {"features": swapped}, indent=1).encode() + b"\n") is WrongFeatures
    for features in (swapped, FEATURES[:-1], (*FEATURES, "new")):
        with monkeypatch.context() as patch, pytest.raises(WrongFeatures, match="its feature"):
            patch.setattr(mesbot.model_files, "FEATURES", tuple(features))
            load_predictor(folder)
    with monkeypatch.context() as patch, pytest.raises(WrongFeatures, match="made for features"):
        patch.setattr(mesbot.model_files, "feature_hash", lambda: "0" * 12)
        load_predictor(folder)
    with monkeypatch.context() as patch, pytest.raises(UnknownKind, match="Tilt"):
        patch.delitem(KINDS, "Tilt")
        load_predictor(folder)
    with pytest.raises(MissingFile, match="manifest.json is missing"): load_predictor(folder.parent)
    assert load_predictor(folder, CONFIG).weights.tolist() == [1, -2, 3]


@modest
@given(name=st.sampled_from(FILES), at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_byte_of_any_file_changes_unseen(folder, name, at, flip):
    "MOD-8: one byte of any file, at any place, to any other value."
    data = bytearray((folder / name).read_bytes())
    data[at % len(data)] ^= flip
    assert refusal(folder, name, bytes(data)) is not None


@modest
@given(name=st.sampled_from(FILES), keep=st.integers(0, 10**6), tail=st.sampled_from([b"", b"\0", b"\n", b"}\n"]))
def test_no_file_is_cut_or_grows_unseen(folder, name, keep, tail):
    "MOD-8: cut at any place, with or without something else behind."
    whole = (folder / name).read_bytes()
    data = whole[:keep % (len(whole) + 1)] + tail
    assert data == whole or refusal(folder, name, data) is not None


def test_no_file_of_another_model_is_taken(folder, tmp_path):
    "MOD-8: models that differ in scaler, calibration and weights, of the same sizes; each file of one put into the other."
    save_predictor(Tilt([3, -2, 1], mean=(0.3, 0.4), temperature=1.75), tmp_path / "other", about_config(CONFIG))
    assert [refusal(folder, name, (tmp_path / "other" / name).read_bytes()) for name in FILES] == [ChangedFile, WrongScaler, ChangedFile, ChangedFile]


def test_an_ensemble_keeps_the_scaler_of_each_member(tmp_path, monkeypatch):
    "FEA-5: also two members that swap their scalers are refused."
    class Both:
        horizon_s, members = 30, [{"scaler": {"mean": [1.0]}}, {"scaler": {"mean": [2.0]}}]
        def to_files(self): return {"kind": "Both", "scaler": {"mean": [0.0]}, "members": self.members}, {}
    monkeypatch.setitem(KINDS, "Both", lambda facts, files: Both())
    save_predictor(Both(), tmp_path / "both")
    facts = json.loads((tmp_path / "both/facts.json").read_text())
    facts["members"].reverse()
    assert refusal(tmp_path / "both", "facts.json", json.dumps(facts).encode() + b"\n", None) is WrongScaler


@pytest.mark.parametrize("at", range(7))
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, at):
    "MOD-8: a model is there whole or not at all, and is never overwritten."
    calls = iter(range(100))
    def full(path):
        if next(calls) == at: raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(mesbot.model_files, "sync", full)
        try: save_predictor(Tilt([1]), tmp_path / "m")
        except OSError: assert at < 6
        else: assert at == 6
    if (tmp_path / "m").exists(): load_predictor(tmp_path / "m")
    assert at >= 5 or not list(tmp_path.iterdir())                # the fifth is that of the folder above, after the rename
    if at < 5: save_predictor(Tilt([1]), tmp_path / "m")
    with pytest.raises(FileExistsError, match="never overwritten"): save_predictor(Tilt([2]), tmp_path / "m")
    assert load_predictor(tmp_path / "m").weights.tolist() == [1]


@pytest.mark.parametrize("wrong, says", [({"about": {"auc": float("nan")}}, "without NaN"), ({"about": {"x": object()}}, "must be plain"), ({"mean": [float("inf")]}, "facts of a model must be plain")])
def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says): save_predictor(Tilt([1], wrong.get("mean", (0.1,))), tmp_path / "m", wrong.get("about"))
    assert not list(tmp_path.iterdir())


# ---- MOD-8: versions

def test_versions_are_ordered_as_numbers_and_never_used_twice(tmp_path):
    "MOD-8: 1.10.0 comes after 1.9.0; a promoted number is not given again when its folder is gone."
    assert registry(tmp_path, 11)[-2:] == ["1.9.0", "1.10.0"] == versions(tmp_path, "m")[-2:]
    assert models(tmp_path)["version"].tolist()[-2:] == ["1.9.0", "1.10.0"]
    promote(tmp_path, "m", "1.10.0", "Ada", "best")
    shutil.rmtree(tmp_path / "m/1.10.0")
    assert register(Tilt([0]), "m", tmp_path) == "1.10.1" and register(Tilt([0]), "m", tmp_path, bump="major") == "2.0.0"


@modest
@given(numbers=st.lists(st.tuples(*[st.integers(0, 10**6 - 1)] * 3), min_size=1, max_size=6), bump=st.sampled_from(mesbot.registry.BUMPS))
def test_the_next_version_is_above_all_others(numbers, bump):
    "MOD-8: as numbers, whichever is raised; the lower ones begin at 0 again."
    known = [".".join(map(str, n)) for n in numbers if max(n) < 10**6 - 1] or ["1.0.0"]
    after, top = version_numbers(mesbot.registry.next_version(known, bump)), max(map(version_numbers, known))
    place = mesbot.registry.BUMPS.index(bump)
    assert after > top and after == (*top[:place], top[place] + 1, *[0] * (2 - place))


def test_what_is_half_written_is_no_version(tmp_path):
    "MOD-8: nobody reads it, the next writer sweeps it."
    registry(tmp_path, 1)
    copy_model(tmp_path / "m/1.0.0", tmp_path / "m/1.0.1.0a1b2c3d.next")
    (tmp_path / "m/current.next").write_text("{")
    assert versions(tmp_path, "m") == ["1.0.0"] and len(models(tmp_path)) == 1 and current_version(tmp_path, "m") is None
    for name in ("1.0.1.0a1b2c3d.next", "../m/1.0.0", "1.0", ""):
        with pytest.raises(NotRegistered): promote(tmp_path, "m", name, "Ada", "try")
    assert register(Tilt([5]), "m", tmp_path) == "1.0.1" and sorted(p.name for p in (tmp_path / "m").iterdir()) == ["1.0.0", "1.0.1"]


@pytest.mark.parametrize("name", ["../up", "", "a b", ".hidden", "a/b", "/etc", "a" * 101, "é", "a\n"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    for call in (lambda: register(Tilt([1]), name, tmp_path), lambda: versions(tmp_path, name), lambda: promote(tmp_path, name, "1.0.0", "Ada", "x"),
                 lambda: roll_back(tmp_path, name, "Ada", "x"), lambda: load_current(tmp_path, name), lambda: history(tmp_path, name)):
        with pytest.raises(ValueError, match="a model's name must be"): call()
    assert not list(tmp_path.iterdir())


# ---- MOD-8: promotion and roll-back

def test_the_roll_back_drill(tmp_path):
    "MOD-8: three promoted, back, back, and no further; each time the very model trades; who, when and why are written down."
    for k, version in enumerate(registry(tmp_path)):
        promote(tmp_path, "m", version, "Ada", f"block {k} was better")
        assert load_current(tmp_path, "m", CONFIG).weights[0] == k
    for k, by in ((1, "Bob"), (0, "Cyd")):
        assert roll_back(tmp_path, "m", by, "it bleeds\nbadly") == f"1.{k}.0" == current_version(tmp_path, "m") and load_current(tmp_path, "m", CONFIG).weights[0] == k
    with pytest.raises(NotPromoted, match="m: nothing was promoted before 1.0.0"): roll_back(tmp_path, "m", "Ada", "further")
    told = history(tmp_path, "m")
    assert told[["what", "version", "by"]].values.tolist() == [["promotion", f"1.{k}.0", "Ada"] for k in range(3)] + [["roll-back", "1.1.0", "Bob"], ["roll-back", "1.0.0", "Cyd"]]
    assert told["why"].iloc[-1] == "it bleeds badly" and told["when_utc"].str.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00").all() and told["when_utc"].is_monotonic_increasing
    assert told["model_hash"].iloc[-1] == model_hash(tmp_path / "m/1.0.0") and current_version(tmp_path, "m") == "1.0.0"
    assert len((tmp_path / "m/history.jsonl").read_text().splitlines()) == 5 and len((tmp_path / "m/current").read_text().splitlines()) == 1


@settings(modest, max_examples=20)
@given(steps=st.lists(st.sampled_from(["1.0.0", "1.1.0", "1.2.0", "back"]), max_size=12))
def test_any_order_of_promotions_and_roll_backs(tmp_path_factory, steps):
    "MOD-8: against a plain pile."
    root, pile, done = tmp_path_factory.mktemp("pile"), [], 0
    registry(root)
    for step in steps:
        refused = len(pile) < 2 if step == "back" else pile[-1:] == [step]
        try: roll_back(root, "m", "Ada", "x") if step == "back" else promote(root, "m", step, "Ada", "x")
        except ValueError: assert refused
        else:
            assert not refused
            pile, done = pile[:-1] if step == "back" else [*pile, step], done + 1
        assert current_version(root, "m") == (pile[-1] if pile else None) and history(root, "m")["number"].tolist() == list(range(1, done + 1))


def test_only_what_can_be_loaded_is_promoted(tmp_path, monkeypatch):
    "MOD-8: the last good one stays."
    registry(tmp_path)
    promote(tmp_path, "m", "1.0.0", "Ada", "first")
    (tmp_path / "m/1.1.0/weights.f32").write_bytes(b"")
    with pytest.raises(TruncatedFile): promote(tmp_path, "m", "1.1.0", "Ada", "x")
    for by, why in ((" ", "x"), ("Ada", "\n")):
        with pytest.raises(ValueError, match="needs a person's name and a reason"): promote(tmp_path, "m", "1.2.0", by, why)
    promote(tmp_path, "m", "1.2.0", "Ada", "second")
    shutil.rmtree(tmp_path / "m/1.0.0")
    with pytest.raises(MissingFile): roll_back(tmp_path, "m", "Ada", "x")
    save_predictor(Tilt([9, 9]), tmp_path / "m/1.0.0", about_config(CONFIG))
    with pytest.raises(ChangedFile, match="not the model that was promoted"): roll_back(tmp_path, "m", "Ada", "x")
    assert load_current(tmp_path, "m", CONFIG).weights[0] == 2 and len(history(tmp_path, "m")) == 2
    assert models(tmp_path).set_index("version")["refused"].to_dict() == {"1.0.0": "", "1.1.0": "TruncatedFile", "1.2.0": ""}
    with pytest.raises(WrongConfig): load_current(tmp_path, "m", load_config(labels={"threshold_ticks": 9}))
    shutil.rmtree(tmp_path / "m/1.2.0")
    save_predictor(Tilt([9, 9]), tmp_path / "m/1.2.0", about_config(CONFIG))
    with pytest.raises(ChangedFile, match="not the model that was promoted"): load_current(tmp_path, "m")


# ---- MOD-8: killed, crowded, damaged

class Counted:
    "`os`, but the process kills itself at the `left`-th rename or sync."
    def __init__(self, left): self.left = left
    def __getattr__(self, name):
        if name in ("replace", "rename", "fsync"):
            self.left -= 1
            if self.left < 0: os.kill(os.getpid(), signal.SIGKILL)
        return getattr(os, name)


def killed(after, call):
    "Run it in a process that is killed at its `after`-th rename or sync; how it ended."
    def victim():
        mesbot.registry.os = mesbot.model_files.os = mesbot.tickfile.os = Counted(after)
        call()
        os._exit(0)
    process = forked.Process(target=victim)
    process.start()
    process.join(60)
    return process.exitcode


STEPS = {"register": lambda root: register(Tilt([7, 7]), "m", root), "promote": lambda root: promote(root, "m", "1.2.0", "Ada", "x"), "roll back": lambda root: roll_back(root, "m", "Ada", "x")}


@pytest.mark.parametrize("what", STEPS)
def test_killed_at_any_step_it_has_happened_or_it_has_not(tmp_path, what):
    "MOD-8: `current` is the old one or the new one, history ends with it, nothing half written is seen, and the next writer leaves no litter."
    seen = []
    for after in range(30):
        root = tmp_path / str(after)
        registry(root)
        for version in ("1.0.0", "1.1.0"): promote(root, "m", version, "Ada", "x")
        code = killed(after, lambda: STEPS[what](root))
        assert code in (0, -signal.SIGKILL)
        first = load_current(root, "m", CONFIG).weights[0], history(root, "m")["version"].tolist(), versions(root, "m")
        assert all(models(root)["refused"] == "") and first[1][-1] == current_version(root, "m")
        with pytest.raises(ValueError): promote(root, "m", current_version(root, "m"), "Ada", "the next writer")
        assert (load_current(root, "m", CONFIG).weights[0], history(root, "m")["version"].tolist(), versions(root, "m")) == first
        lines = (root / "m/history.jsonl").read_bytes().split(b"\n")
        assert [json.loads(line)["number"] for line in lines[:-1]] == list(range(1, len(first[1]) + 1)) and lines[-1] == b"" and not list(root.glob("*/*.next"))
        seen.append((code, len(first[1]), len(first[2])))
        if code == 0: break
    changed = [facts != (2, 3) for _, *facts in seen for facts in [tuple(facts)]]
    assert seen[-1][0] == 0 and len(seen) >= 5 and not changed[0] and changed[-1] and changed == sorted(changed), seen


def test_killed_between_the_line_of_current_and_its_rename(tmp_path):
    "MOD-8: `current` is then what it was, to the byte, and the promotion has not happened."
    registry(tmp_path)
    promote(tmp_path, "m", "1.0.0", "Ada", "x")
    before = (tmp_path / "m/current").read_bytes()
    assert killed(1, lambda: promote(tmp_path, "m", "1.1.0", "Ada", "x")) == -signal.SIGKILL          # written and synced, not renamed
    assert (tmp_path / "m/current.next").exists() and (tmp_path / "m/current").read_bytes() == before and load_current(tmp_path, "m").weights[0] == 0
    promote(tmp_path, "m", "1.2.0", "Ada", "x")
    assert history(tmp_path, "m")["version"].tolist() == ["1.0.0", "1.2.0"] and not (tmp_path / "m/current.next").exists()


@pytest.mark.parametrize("cut", [1, 30, 100, 10_000])
def test_a_line_of_history_that_was_cut_by_a_power_failure_is_completed(tmp_path, cut):
    "MOD-8: the event is whole in `current`."
    registry(tmp_path)
    for version in ("1.0.0", "1.1.0"): promote(tmp_path, "m", version, "Ada", "x")
    path = tmp_path / "m/history.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:max(first, len(whole) - cut)])
    assert history(tmp_path, "m")["version"].tolist() == ["1.0.0", "1.1.0"]
    assert register(Tilt([1]), "m", tmp_path) and path.read_bytes() == whole and roll_back(tmp_path, "m", "Ada", "x") == "1.0.0"


def test_a_damaged_history_is_refused_by_name(tmp_path):
    "MOD-8: a line that is lost, doubled or damaged, or a `current` of another time; nothing is written over it."
    registry(tmp_path)
    for version in ("1.0.0", "1.1.0", "1.2.0"): promote(tmp_path, "m", version, "Ada", "x")
    path, now = tmp_path / "m/history.jsonl", tmp_path / "m/current"
    whole, last = path.read_bytes(), now.read_bytes()
    lines = whole.splitlines(keepends=True)
    bad = [(b"".join(lines[1:]), last), (b"".join([lines[0], *lines]), last), (whole.replace(b'"number": 2', b'"number": x'), last), (whole.replace(b'"version"', b'"verzion"'), last),
           (lines[0], last), (b"", last), (whole, None), (whole, lines[0]), (whole, last[:20]), (whole, b"\xff"), (whole, b"[1]")]
    for history_bytes, current_bytes in bad:
        path.write_bytes(history_bytes)
        now.write_bytes(current_bytes) if current_bytes is not None else now.unlink()
        for call in (lambda: promote(tmp_path, "m", "1.0.0", "Ada", "x"), lambda: roll_back(tmp_path, "m", "Ada", "x"), lambda: register(Tilt([1]), "m", tmp_path)):
            with pytest.raises(BrokenHistory) as e: call()
            assert "\n" not in str(e.value)
        assert path.read_bytes() == history_bytes and now.exists() == (current_bytes is not None)


def test_whoever_waits_too_long_is_told_so(tmp_path, monkeypatch):
    "MOD-8: a writer that hangs stops other writers by name, and no reader."
    registry(tmp_path)
    promote(tmp_path, "m", "1.0.0", "Ada", "x")
    lock = filelock.FileLock
    monkeypatch.setattr(filelock, "FileLock", lambda path, timeout: lock(path, timeout=.05))
    with lock(lock_file(tmp_path / "m")):
        for call in (lambda: promote(tmp_path, "m", "1.1.0", "Ada", "x"), lambda: register(Tilt([1]), "m", tmp_path)):
            with pytest.raises(ValueError, match="is being written by another process"): call()
        assert load_current(tmp_path, "m").weights[0] == 0 and len(history(tmp_path, "m")) == 1
    promote(tmp_path, "m", "1.1.0", "Ada", "x")


def test_two_processes_that_promote_at_once_take_turns(tmp_path):
    "MOD-8: every promotion is one line of a history that counts; whoever reads meanwhile finds a whole model."
    registry(tmp_path, 6)
    promote(tmp_path, "m", "1.0.0", "Ada", "first")
    def busy(mine):
        for k in range(12): promote(tmp_path, "m", mine[k % len(mine)], f"process {mine[0]}", "turn")
        for _ in range(3): register(Tilt([1]), "m", tmp_path)
        os._exit(0)
    both = [forked.Process(target=busy, args=(mine,)) for mine in (("1.1.0", "1.2.0"), ("1.3.0", "1.4.0"))]
    for process in both: process.start()
    reads = 0
    while any(process.is_alive() for process in both):
        load_current(tmp_path, "m", CONFIG)
        assert history(tmp_path, "m")["number"].is_monotonic_increasing and (models(tmp_path)["refused"] == "").all()
        reads += 1
    assert [process.exitcode for process in both] == [0, 0] and reads
    told = history(tmp_path, "m")
    assert told["number"].tolist() == list(range(1, 26)) and told["by"].value_counts().to_dict() == {"Ada": 1, "process 1.1.0": 12, "process 1.3.0": 12}
    assert current_version(tmp_path, "m") == told["version"].iloc[-1] and len((tmp_path / "m/history.jsonl").read_text().splitlines()) == 25
    assert versions(tmp_path, "m")[6:] == [f"1.5.{k}" for k in range(1, 7)]


# ---- MOD-8: the commands

def typed(*args):
    done = CliRunner().invoke(model_commands.models, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_drill_from_the_command_line(tmp_path, folder):
    "MOD-8: one command rolls back; 0 when done, 2 and one line when refused."
    at = ("--models", tmp_path / "models")
    assert typed("list", *at)[0] == 2 and "no models in" in typed("list", *at)[1]
    for version in ("1.0.0", "1.0.1"): assert typed("register", folder, "m", *at) == (0, f"m {version} is kept in {tmp_path / 'models'}\n")
    assert model_hash(tmp_path / "models/m/1.0.1") == model_hash(folder)                             # byte for byte what the run had
    assert typed("promote", "m", "1.0.0", *at)[0] == 2                                              # no reason given
    for version in ("1.0.0", "1.0.1"): assert typed("promote", "m", version, "--why", "better", "--by", "Ada", *at)[0] == 0
    assert typed("rollback", "m", "--why", "it bleeds", *at)[1] == "m 1.0.0 is current again instead of 1.0.1\n" and load_current(tmp_path / "models", "m", CONFIG)
    for wrong in (("rollback", "m", "--why", "x"), ("promote", "m", "9.9.9", "--why", "x"), ("history", "none"), ("promote", "../m", "1.0.0", "--why", "x"), ("register", tmp_path, "m")):
        code, output = typed(*wrong, *at)
        assert code == 2 and output.startswith("mesbot: ") and output.count("\n") == 1, output
    code, output = typed("history", "m", *at)
    assert code == 0 and len(output.splitlines()) == 4 and "it bleeds" in output and "Ada" in output
    assert typed("list", *at)[1].count("current") == 2                                               # the heading, and one version
    (tmp_path / "models/m/1.0.0/weights.f32").unlink()
    assert "MissingFile" in typed("list", *at)[1]
