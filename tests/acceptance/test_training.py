"MOD-2: nets learn from the past only, stop where they should, and end with the same bytes for the same seed, killed on the way or not."
import hashlib
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import ROOT

import mesbot.training as room
from mesbot.config import NET_NAMES, load_config
from mesbot.core import SECOND
from mesbot.losses import loss_of
from mesbot.scaling import NotTrainable, fit_scaler_rows
from mesbot.sequences import gather
from mesbot.training import Targets, fit_network, split_rows

N, BATCH = 1200, 64
ROWS = np.arange(20, 1000)


def settings(**changes): return load_config(networks=dict(length=6, width=8, hidden=(8,), epochs=4, batch=BATCH, learning_rate=.01, dropout=.2, patience=4) | changes)


def world():
    "A feature that leans the odds, among others; labels known after 31 bars."
    rng = np.random.default_rng(8)
    features = rng.normal(size=(N, 4)).astype(np.float32)
    label = np.digitize(features[:, 1] + rng.normal(size=N), [-.6, .6]).astype(np.int8)
    volatility = np.exp(rng.normal(size=N)).astype(np.float32)
    volatility[::7] = np.nan
    return features, Targets(label, volatility, rng.integers(-1, 2, N).astype(np.int8))


def fit(name="feed_forward", config=None, rows=ROWS, seed=5, features=None, targets=None, known_after_s=31, **more):
    own, own_targets = world()
    features, targets, ts = own if features is None else features, targets or own_targets, np.arange(N) * SECOND
    return fit_network(name, features, targets, rows, ts + known_after_s * SECOND, ts, fit_scaler_rows(own, ROWS), config or settings(), seed, **more)


def fingerprint(fitted):
    "Of all weights, and of the losses on the way."
    digest = hashlib.sha256(str(fitted.best_epoch).encode())
    for name, value in fitted.network.state_dict().items(): digest.update(name.encode() + value.numpy().tobytes())
    digest.update(fitted.curves.drop(columns="seconds").to_numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", NET_NAMES)
def test_same_seed_same_bytes(name):
    "MOD-2: the seed decides weights, order and dropout; whoever drew torch's numbers before makes no difference, and finds his own place again afterwards."
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(77)
    first, after = fingerprint(fit(name)), torch.rand(1)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    torch.manual_seed(77)
    assert torch.equal(after, torch.rand(1))
    torch.rand(1000)
    assert fingerprint(fit(name)) == first != fingerprint(fit(name, seed=6))


PROGRAM = """
import os, signal, sys
import mesbot.training as room
from test_training import fingerprint, fit
name, folder, every_s, what, at = *sys.argv[1:3], float(sys.argv[3]), sys.argv[4], int(sys.argv[5])
room.CHECKPOINT_S, calls = every_s, dict(gather=0, replace=0)
def dying(key, call):
    def wrapped(*args):
        calls[key] += 1
        if (key, calls[key]) == (what, at): os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)
    return wrapped
room.gather, os.replace = dying("gather", room.gather), dying("replace", os.replace)
print(fingerprint(fit(name, folder=folder)), calls["gather"])
"""


def run(*args):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("", "tests", "tests/acceptance"))}
    return subprocess.run([sys.executable, "-c", PROGRAM, *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=env)


@pytest.mark.parametrize("name, every_s, what, at, spared", (
    ("transformer", 0, "gather", 27, 25),      # in an epoch, with a checkpoint after each batch: the 25 before the one at which it died are not done again
    ("transformer", 1e9, "gather", 27, 16),    # in an epoch, with checkpoints at the end of epochs only: back to the end of the first, of 14 batches and 2 on held rows
    ("feed_forward", 0, "replace", 20, 20),    # while a checkpoint gets its name: the one before is whole
))
def test_killed_and_resumed_is_as_never_killed(tmp_path, name, every_s, what, at, spared):
    "MOD-2: kill -9 in mid-epoch, run again: the weights of an uninterrupted run, to the last bit, and the work that was saved is not done twice."
    calls, gather = [], room.gather
    room.gather = lambda *args: calls.append(1) or gather(*args)
    try: whole = fingerprint(fit(name))
    finally: room.gather = gather
    assert run(name, tmp_path, every_s, what, at).returncode == -signal.SIGKILL
    resumed = run(name, tmp_path, every_s, "", 0)
    assert resumed.returncode == 0, resumed.stderr
    found, batches = resumed.stdout.split()
    assert found == whole
    assert int(batches) == len(calls) - spared


def test_a_checkpoint_belongs_to_one_run(tmp_path):
    "MOD-2: whoever changes rows, labels, features, settings, seed or net does not go on from the weights of before; the message says what differs."
    whole = fingerprint(fit(folder=tmp_path))
    assert fingerprint(fit(folder=tmp_path)) == whole
    features, targets = world()
    features[500, 0] += .01
    other = targets._replace(label=np.where(np.arange(N) == 500, (targets.label + 1) % 3, targets.label))
    for what, change in (("seed", dict(seed=6)), ("network", dict(name="lstm")), ("settings networks", dict(config=settings(weight_decay=.02))), ("set of rows", dict(rows=ROWS[1:])),
                         ("set of rows", dict(known_after_s=40)), ("feature matrix", dict(features=features)), ("target", dict(targets=other))):
        with pytest.raises(ValueError, match=f"begun with another {what}; remove it"): fit(**change, folder=tmp_path)
    file = tmp_path / "training.checkpoint"
    whole = file.read_bytes()
    for damaged in (whole[:-200], whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged checkpoint"): fit(folder=tmp_path)


def test_half_precision_resumes_too(tmp_path, monkeypatch):
    "MOD-2: the loop with scaled gradients, here on the CPU; stopped and resumed as whole."
    task, gather, calls = room._Task, room.gather, []
    monkeypatch.setattr(room, "_Task", lambda *args: task(*args[:-1], True))
    whole = fingerprint(fit("lstm"))
    monkeypatch.setattr(room, "_Task", task)
    assert fingerprint(fit("lstm")) != whole
    monkeypatch.setattr(room, "_Task", lambda *args: task(*args[:-1], True))
    monkeypatch.setattr(room, "CHECKPOINT_S", 0)
    def stops(*args):
        calls.append(1)
        if len(calls) == 21: raise KeyboardInterrupt
        return gather(*args)
    monkeypatch.setattr(room, "gather", stops)
    with pytest.raises(KeyboardInterrupt): fit("lstm", folder=tmp_path)
    assert fingerprint(fit("lstm", folder=tmp_path)) == whole


def test_labels_known_too_late_do_not_train():
    "MOD-2: rows whose label is known only when the held rows have begun: whatever their labels, the weights are the same. The row before them does count."
    train, held = split_rows(ROWS, np.arange(N) * SECOND + 31 * SECOND, np.arange(N) * SECOND, .1)
    assert held[0] == 902 and train[-1] == 871 and len(train) == 852 and len(held) == 98
    features, targets = world()
    def flipped(rows):
        label = targets.label.copy()
        label[rows] = (label[rows] + 1) % 3
        return fingerprint(fit(targets=targets._replace(label=label)))
    whole = fingerprint(fit())
    assert flipped(range(872, 902)) == flipped(range(1000, N)) == whole != flipped([871])


def test_held_rows_only_stop():
    "MOD-2: with one epoch, labels of held rows change the losses told and nothing of the weights."
    targets, one = world()[1], settings(epochs=1)
    label = targets.label.copy()
    label[902:1000] = (label[902:1000] + 1) % 3
    first, other = fit(config=one), fit(config=one, targets=targets._replace(label=label))
    for a, b in zip(first.network.state_dict().values(), other.network.state_dict().values()): assert torch.equal(a, b)
    assert first.curves.held_loss[0] != other.curves.held_loss[0] and first.curves.train_loss[0] == other.curves.train_loss[0]


@pytest.mark.parametrize("name", ("feed_forward", "hybrid"))
def test_the_loss_on_held_rows_is_that_of_the_net_as_it_is_used(name):
    "MOD-2: no dropout where it is judged; whoever has the net finds the loss that was told."
    (features, targets), fitted, held = world(), fit(name, settings(dropout=.5)), np.arange(902, 1000)
    with torch.no_grad():
        out = fitted.network(torch.from_numpy(gather(features, held, fitted.scaler, fitted.length)))
        loss = loss_of(settings(), targets.label[ROWS])
        parts = [slice(0, BATCH), slice(BATCH, None)]
        told = sum(float(loss(out[part], *(torch.from_numpy(target[held][part]) for target in targets))) * len(held[part]) for part in parts) / len(held)
    assert told == pytest.approx(fitted.curves.held_loss[fitted.best_epoch], rel=1e-5)


def test_the_best_epoch_is_kept():
    "MOD-2: labels of noise, learnt by heart: the held loss rises, training stops `patience` epochs after its best, and the weights are those of a run that ended there."
    features, targets = world()
    noise = Targets(np.random.default_rng(1).integers(0, 3, N).astype(np.int8))
    def run(epochs): return fit("lstm", settings(epochs=epochs, patience=3, width=32, learning_rate=.02, dropout=0, schedule="constant"), targets=noise)
    stopped = run(60)
    best, curves = stopped.best_epoch, stopped.curves
    assert best == curves.held_loss.argmin() and len(curves) == best + 4 < 60 and curves.train_loss.iloc[-1] < curves.train_loss[0]
    short = run(best + 1)
    for a, b in zip(stopped.network.state_dict().values(), short.network.state_dict().values()): assert torch.equal(a, b)
    assert curves.held_loss.iloc[-1] > curves.held_loss[best]


@pytest.fixture
def lengths(monkeypatch):
    "How long the gradient is at each step that is taken."
    found, step = [], torch.optim.AdamW.step
    def measured(self, *args, **kwargs):
        found.append(float(torch.sqrt(sum((p.grad**2).sum() for group in self.param_groups for p in group["params"]))))
        return step(self, *args, **kwargs)
    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    return found


@pytest.mark.parametrize("schedule", ("cosine", "plateau", "constant"))
def test_learning_rates(schedule):
    "MOD-2: half a cosine; half as much after three epochs without a better one; or always the same."
    noise = Targets(np.random.default_rng(1).integers(0, 3, N).astype(np.int8))
    curves = fit("lstm", settings(schedule=schedule, epochs=30, patience=5, width=32, dropout=0, learning_rate=.02), targets=noise).curves
    rate, epoch = curves.learning_rate.to_numpy(), np.arange(len(curves))
    if schedule == "cosine": np.testing.assert_allclose(rate, .01 * (1 + np.cos(np.pi * epoch / 30)), rtol=1e-6)
    if schedule == "constant": assert (rate == .02).all()
    if schedule == "plateau": assert rate[curves.held_loss.argmin() + 3] == .02 and rate[curves.held_loss.argmin() + 4] == .01


@pytest.mark.parametrize("mixed", (False, True))
def test_gradients_are_clipped(lengths, monkeypatch, mixed):
    "MOD-2: no step is taken with a gradient longer than 1; with scaled gradients neither, and it is their true length that counts."
    task = room._Task
    monkeypatch.setattr(room, "_Task", lambda *args: task(*args[:-1], mixed))
    features, targets = world()
    fit("hybrid", settings(loss="focal", class_weights=True), targets=targets._replace(volatility=targets.volatility * 1e6))
    assert max(lengths) == pytest.approx(1, abs=1e-3) and len(lengths) == 4 * 14


@pytest.mark.parametrize("changes", (dict(), dict(class_weights=True), dict(loss="focal", class_weights=True)))
def test_it_learns_also_when_a_class_never_comes(changes):
    "MOD-2: with any loss the held loss falls and the answers follow the feature that sets the odds; a class without rows is no obstacle, a single class is."
    features, targets = world()
    for label in (targets.label, np.where(targets.label == 0, 1, targets.label).astype(np.int8)):
        fitted = fit(config=settings(epochs=20, dropout=0, **changes), targets=Targets(label))
        with torch.no_grad(): out = fitted.network(torch.from_numpy(fitted.scaler(features[1000:])[:, None])).numpy()
        assert np.isfinite(out).all() and np.corrcoef(out[:, 2] - out[:, 1], features[1000:, 1])[0, 1] > .8
        assert fitted.curves.held_loss.min() < fitted.curves.held_loss[0]
    with pytest.raises(NotTrainable, match=r"only class \[1\]"): fit(targets=Targets(np.ones(N, np.int8)))


def test_what_cannot_be_trained_says_why():
    "MOD-2: a loss that is no number stops at once; fewer than 100 rows, or none that is known in time, are too few."
    gap, late = (world()[0] for _ in range(2))
    gap[400, 1] = late[950, 1] = np.nan
    with pytest.raises(NotTrainable, match="the loss is nan in epoch 0"): fit("lstm", features=gap)
    with pytest.raises(NotTrainable, match="the loss on held rows 902 to 999 is nan after epoch 0"): fit(features=late)
    with pytest.raises(NotTrainable, match="at least 100 rows, got 99 of 99"): fit(rows=ROWS[:99], known_after_s=1)
    fit(rows=ROWS[:100], known_after_s=1)
    with pytest.raises(NotTrainable, match="got 98 of 980"): fit(known_after_s=5000)
    with pytest.raises(NotTrainable, match="got 0 of 0"): fit(rows=[])


@pytest.mark.parametrize("change, says", (
    (dict(rows=ROWS[::-1]), "time order"), (dict(rows=np.r_[ROWS, ROWS[-1]]), "each once"), (dict(rows=ROWS + 500), f"0 to {N - 1}"), (dict(rows=np.arange(3, 900), name="lstm"), "rows must be 5"),
    (dict(targets=Targets(np.full(N, -1, np.int8))), "got -1"), (dict(targets=Targets(np.zeros(9, np.int8))), "label must have one row a bar"), (dict(name="gru"), "unknown network 'gru'"),
))
def test_wrong_input_is_refused_at_the_door(change, says):
    "MOD-2: one line that says what is wrong, before anything is learnt."
    with pytest.raises(ValueError, match=says) as e: fit(**change)
    assert "\n" not in str(e.value) and not isinstance(e.value, NotTrainable)


def test_training_does_not_load_the_matrix(tmp_path):
    "MOD-3: from a file of 23 MB a few rows are learnt from; what is held at any time is a batch."
    n, path = 100_000, tmp_path / "features.npy"
    np.save(path, np.random.default_rng(1).normal(size=(n, 57)).astype(np.float32))
    features, ts, rows = np.load(path, mmap_mode="r"), np.arange(n) * SECOND, np.arange(100, n, 20)
    targets, scaler = Targets((features[:, 0] > 0).astype(np.int8)), fit_scaler_rows(features, rows)
    def train(): return fit_network("feed_forward", features, targets, rows, ts + SECOND, ts, scaler, settings(epochs=1), 1)
    train()
    tracemalloc.start()
    try:
        train()
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally: tracemalloc.stop()


def test_a_bar_shows_how_far_it_is(capsys):
    "MOD-2: on request only."
    fit(progress=True)
    assert "56/56" in (told := capsys.readouterr().err) and "feed_forward" in told
    fit()
    assert capsys.readouterr().err == ""
