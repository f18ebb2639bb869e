"BT-6, BT-8: folds that roll, expand, and take every choice of groups; nothing of a test is known to its training."
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mesbot.combinatorial import combinatorial_folds, group_ranges, paths, purged_rows
from mesbot.config import Folds
from mesbot.folds import fit_to, rolling_folds

CHOICES = st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))


def sessions_of(ranges): return [k for a, b in ranges for k in range(a, b)]


# ---- rolling and expanding

@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 10), st.integers(0, 5), st.integers(1, 20), st.sampled_from(["rolling", "expanding"]))
def test_a_walk_tests_each_later_session_once_and_trains_before_it(sessions, train, calibration, embargo, test, kind):
    assume(calibration < train)
    plan = Folds(train_sessions=train, calibration_sessions=calibration, embargo_sessions=embargo, test_sessions=test, kind=kind)
    folds = rolling_folds(sessions, plan)
    assert sessions_of(f.test for f in folds) == list(range(train + embargo, sessions))
    for fold in folds:
        assert fold.fit[1] == fold.calibrate[0] and fold.calibrate[1] + embargo == fold.test[0] and fold.calibrate[1] - fold.calibrate[0] == calibration
        assert fold.fit[0] == (0 if kind == "expanding" else fold.calibrate[1] - train)


def test_expanding_tests_the_same_sessions_with_more_to_learn_from():
    rolling, expanding = (rolling_folds(60, Folds(kind=kind)) for kind in ("rolling", "expanding"))
    assert [f[2:] for f in rolling] == [f[2:] for f in expanding] and rolling[0] == expanding[0]
    assert all(e.fit == (0, r.fit[1]) for r, e in zip(rolling, expanding)) and rolling[-1].fit[0] == 28


def test_a_shrunk_plan_stays_expanding():
    small, said = fit_to(8, Folds(kind="expanding"))
    assert said and small.kind == "expanding" and {f.fit[0] for f in rolling_folds(8, small)} == {0}


# ---- combinatorial: every choice of groups

@pytest.mark.parametrize("groups, tested, splits, whole", [(6, 2, 15, 5), (10, 2, 45, 9), (10, 8, 45, 36)])
def test_counts_of_the_reference(groups, tested, splits, whole):
    "reference/statistics.md section 6, and skfolio."
    from skfolio.model_selection import CombinatorialPurgedCV
    theirs = CombinatorialPurgedCV(n_folds=groups, n_test_folds=tested)
    assert (len(combinatorial_folds(60, groups, tested)), paths(groups, tested).max()) == (splits, whole) == (theirs.n_splits, theirs.n_test_paths)


@given(CHOICES, st.integers(0, 60), st.integers(0, 4))
def test_each_session_is_tested_phi_times_and_never_trained_on_then(choice, more, embargo):
    groups, tested = choice
    sessions = groups + more
    try: splits = combinatorial_folds(sessions, groups, tested, embargo)
    except ValueError as e:
        assert "to train on" in str(e)
        return
    assert len(splits) == comb(groups, tested) and [s.number for s in splits] == list(range(1, len(splits) + 1))
    assert [s.groups for s in splits] == list(combinations(range(groups), tested))
    times = np.zeros(sessions, int)
    for split in splits:
        test, train = sessions_of(split.test), sessions_of(split.train)
        times[test] += 1
        held = {k for _, b in split.test for k in range(b, min(b + embargo, sessions))}
        assert set(train) == set(range(sessions)) - set(test) - held and train == sorted(train) and len(train) >= 2
        assert all(a < b for a, b in split.train) and all(b < c for (_, b), (c, _) in zip(split.train, split.train[1:]))
    assert (times == comb(groups - 1, tested - 1)).all()


@given(CHOICES)
def test_paths_are_whole_and_use_each_result_once(choice):
    "As skfolio and purgedcv number them: the k-th test of a group belongs to path k."
    table, whole = paths(*choice), comb(choice[0] - 1, choice[1] - 1)
    assert table.shape == (comb(*choice), choice[0]) and ((table > 0).sum(1) == choice[1]).all()
    for column in table.T: assert column[column > 0].tolist() == list(range(1, whole + 1))


@pytest.mark.parametrize("groups, tested", [(3, 2), (5, 2), (6, 2), (6, 3), (7, 5)])
def test_paths_agree_with_skfolio_and_purgedcv(groups, tested):
    from purgedcv import reconstruct_paths
    from skfolio.model_selection import CombinatorialPurgedCV
    table, theirs = paths(groups, tested), CombinatorialPurgedCV(n_folds=groups, n_test_folds=tested)
    ours = np.array([row[row > 0] - 1 for row in table])
    np.testing.assert_array_equal(ours, theirs.get_path_ids())
    splits = combinatorial_folds(4 * groups, groups, tested)
    found = reconstruct_paths([np.full(4 * tested, float(s.number)) for s in splits], [np.array(sessions_of(s.test)) for s in splits], groups, tested, 4 * groups)
    mine = np.array([[np.flatnonzero(table[:, g] == path)[0] + 1 for g in range(groups) for _ in range(4)] for path in range(1, table.max() + 1)])
    np.testing.assert_array_equal(found, mine)


@pytest.mark.parametrize("groups, tested, embargo, each", [(6, 2, 0, 7), (6, 2, 1, 7), (6, 3, 2, 9), (10, 8, 1, 6)])
def test_splits_agree_with_skfolio(groups, tested, embargo, each):
    "skfolio leaves the remainder to the last group; groups of one length are the common ground."
    from skfolio.model_selection import CombinatorialPurgedCV
    theirs = list(CombinatorialPurgedCV(n_folds=groups, n_test_folds=tested, embargo_size=embargo).split(np.zeros((each * groups, 1))))
    ours = combinatorial_folds(each * groups, groups, tested, embargo)
    assert len(ours) == len(theirs)
    for split, (train, test) in zip(ours, theirs):
        assert sessions_of(split.train) == train.tolist() and sessions_of(split.test) == np.sort(np.concatenate(test)).tolist()


def test_the_example_in_skfolios_documentation():
    "12 rows, 3 groups, 2 tested. purged_size=1 is a label that reaches one row ahead; embargo_size=1 is one session."
    assert [sessions_of(s.train) for s in combinatorial_folds(12, 3, 2, 1)] == [[9, 10, 11], [5, 6, 7], [0, 1, 2, 3]]
    ts, found = np.arange(12), []
    for split in combinatorial_folds(12, 3, 2): found.append(purged_rows(ts, ts + 1, np.array(sessions_of(split.train)), [(a, b) for a, b in split.test]).tolist())
    assert found == [[9, 10, 11], [5, 6], [0, 1, 2]]


@given(st.integers(2, 60), st.integers(2, 10))
def test_one_tested_group_without_embargo_is_plain_k_fold(sessions, groups):
    from sklearn.model_selection import KFold
    assume(groups <= sessions and sessions - -(-sessions // groups) >= 2)
    theirs = list(KFold(groups, shuffle=False).split(np.zeros(sessions)))
    assert [(sessions_of(s.train), sessions_of(s.test)) for s in combinatorial_folds(sessions, groups, 1)] == [(a.tolist(), b.tolist()) for a, b in theirs]
    assert [b - a for a, b in group_ranges(sessions, groups)] == [len(b) for _, b in theirs]


@pytest.mark.parametrize("wrong, says", [((5, 6, 2), "cannot be cut into 6 groups"), ((0, 2, 1), "0 sessions"), ((60, 6, 0), "got 0"), ((60, 6, 6), "got 6"), ((60, 1, 1), "got 1"), ((60, 6, 2, -1), "got -1"),
                                         ((12, 6, 2, 9), "to train on"), ((3, 3, 2), "leave 1 to train on")], ids=str)
def test_what_cannot_be_is_told(wrong, says):
    with pytest.raises(ValueError, match=says) as e: combinatorial_folds(*wrong)
    assert "\n" not in str(e.value)


# ---- purge

@settings(deadline=None)
@given(st.data())
def test_no_kept_row_touches_a_test_and_no_other_is_dropped(data):
    "Against the two sentences of the reference, row by row, on rows in any order with ties and labels of any length."
    n = data.draw(st.integers(1, 30))
    ts = np.sort(np.array(data.draw(st.lists(st.integers(0, 60), min_size=n, max_size=n))))
    known = ts + np.array(data.draw(st.lists(st.integers(0, 20), min_size=n, max_size=n)))
    spans = np.array(data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)), max_size=3)), int).reshape(-1, 2).cumsum(1)
    embargo, rows = data.draw(st.integers(0, 10)), np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True)), int)
    def dropped(i): return any(ts[i] <= end and known[i] >= start for start, end in spans) or any(end < ts[i] <= end + embargo for _, end in spans)
    assert purged_rows(ts, known, rows, spans, embargo).tolist() == [i for i in rows if not dropped(i)]


@settings(deadline=None, max_examples=60)
@given(st.integers(10, 40), st.integers(2, 5), st.integers(1, 4), st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**31))
@example(24, 4, 2, 3, 5, 1)
def test_purge_and_embargo_agree_with_purgedcv(n, groups, tested, longest, embargo, seed):
    "Its intervals are half open and ours closed, so times are chosen that never meet: rows at multiples of 4, labels known 2 after one, embargos end 1 after that."
    from purgedcv import CombinatorialPurgedCV
    assume(tested < groups)
    rng = np.random.default_rng(seed)
    ts = 4 * np.sort(rng.choice(4 * n, n, replace=False))
    known = ts + 4 * rng.integers(0, longest + 1, n) + 2
    time = lambda x: pd.Series(pd.to_datetime(np.asarray(x), unit="s"))
    theirs = CombinatorialPurgedCV(groups, tested, prediction_times=time(ts), evaluation_times=time(known), embargo=pd.Timedelta(4 * embargo + 1 if embargo else 0, unit="s"))
    cuts, every = group_ranges(n, groups), np.arange(n)
    for chosen, (train, test) in zip(combinations(range(groups), tested), theirs.split(np.zeros((n, 1))), strict=True):
        mine = np.array(sessions_of(cuts[g] for g in chosen))
        np.testing.assert_array_equal(mine, np.sort(test))
        spans = [(ts[a], known[a:b].max()) for a, b in (cuts[g] for g in chosen)]
        np.testing.assert_array_equal(purged_rows(ts, known, np.setdiff1d(every, mine), spans, 4 * embargo + 1 if embargo else 0), train)
