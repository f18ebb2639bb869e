"Faults on purpose: every planted fault is named where it stands or refused at the door, and a clean market has none (DAT-5, DAT-7)."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.audit import audit_bars
from mesbot.bars import audit_store, import_bars, load_bars, raw_bars
from mesbot.calendar import ny_time
from mesbot.faults import FAULT_KINDS, cross_quotes, missed_faults, plant_faults, price_table
from mesbot.findings import FAULTS, ny_text
from mesbot.market import synthetic_market
from mesbot.resample import resample_bars
from mesbot.sessions import make_bars, n_bars, take_sessions

BY_ITSELF = [name for name, kind in FAULT_KINDS.items() if kind.place in ("hours", "session", "step")]  # leaves the rest of the file alone


@pytest.fixture(scope="module")
def seconds():
    "Three weeks of April 2024: no holiday, no roll, no change of the clocks."
    return synthetic_market(15, seed=4, start="2024-04-01").bars


@pytest.fixture(scope="module")
def minutes(seconds): return resample_bars(seconds, 60, keep_last=True)


@pytest.fixture(scope="module")
def june():
    "Two weeks around the roll of June 2024, contracts joined without a step."
    return synthetic_market(10, seed=5, start="2024-06-10", carry=0.).bars


def kinds(audit): return {row.kind: row.count for row in audit.findings.itertuples()}


def check(clean, faulty):
    "What the audit says of the faulty bars, over what it says of the clean ones: each fault, so often, and nothing that does not follow from one."
    audit, planted = audit_bars(faulty.bars), faulty.planted
    missed = missed_faults(audit, planted)
    assert missed.empty, missed.to_string()
    known, said = kinds(audit_bars(clean)), kinds(audit)
    due = planted[planted["finding"] != ""].groupby("finding")["count"].sum().to_dict()
    loose = {also for kind in planted["kind"] for also in FAULT_KINDS[kind].also} | set(known)
    assert {k: n for k, n in said.items() if k not in loose} == {k: n for k, n in due.items() if k not in loose}, planted.to_string()
    assert audit.ok == (not set(due) & set(FAULTS))
    return audit


def test_a_clean_market_has_no_fault(seconds, minutes, june):
    "DAT-5: nothing planted, nothing found; a minute without a trade at night is a note."
    assert audit_bars(seconds).findings.empty and audit_bars(minutes).ok and set(kinds(audit_bars(minutes))) <= {"quiet_minutes"}
    assert audit_bars(june).ok and "roll_jump" not in kinds(audit_bars(june))


def test_every_fault_the_audit_knows_can_be_planted():
    "DAT-5: but for those that are none of rows and prices."
    named = {kind.finding for kind in FAULT_KINDS.values()} | {"missing_minutes"}  # lost minutes in a file of minutes
    assert set(FAULTS) - named == {"manifest", "empty", "length", "sessions"}


@pytest.mark.parametrize("bar_s", [1, 60])
@pytest.mark.parametrize("seed", range(5))
def test_all_of_them_together(seconds, minutes, bar_s, seed):
    "DAT-5: one of each kind in one file; each is found, none hides another, and nothing is invented."
    clean = seconds if bar_s == 1 else minutes
    faulty = plant_faults(clean, seed)
    assert sorted(faulty.planted["kind"]) == sorted(BY_ITSELF)
    check(clean, faulty)


@pytest.mark.parametrize("name", FAULT_KINDS)
def test_one_alone(seconds, minutes, june, name):
    "DAT-5, DAT-7: found by the audit where it stands; refused by `make_bars` at its row, or let in with every row that is left."
    kind = FAULT_KINDS[name]
    for seed, clean in enumerate([june] * 4 if kind.place == "roll" else [seconds, minutes, seconds, minutes]):
        faulty = plant_faults(clean, seed, [name])
        fault, = faulty.planted.itertuples()
        audit = check(clean, faulty)
        if fault.finding == "gap": assert [fault.ts, fault.end] in audit.gaps.tolist()
        elif fault.finding in ("spike", "jump", "roll_jump"): assert fault.ts in audit.places.loc[audit.places["kind"] == fault.finding, "ts"].tolist()
        elif fault.finding: assert audit.findings.set_index("kind").loc[fault.finding, "first"] == ny_text(fault.ts)
        bars, columns = faulty.bars, (*faulty.bars[:6], "MES")
        if kind.door and fault.finding:
            with pytest.raises(ValueError, match=rf"^row {fault.row}\b.*{kind.door}"): make_bars(*columns, bar_s=bars.bar_s)
        else: assert n_bars(make_bars(*columns, bar_s=bars.bar_s)) == n_bars(bars)


@pytest.mark.parametrize("bar_s", [1, 60])
def test_many_of_a_kind(seconds, minutes, bar_s):
    "DAT-5: ten or four of each kind of price fault, and every gap and spike is told one by one."
    clean, each = (seconds, 10) if bar_s == 1 else (minutes, 4)
    faulty = plant_faults(clean, 1, ["gap", "spike", "far_high", "far_low", "jump"], each)
    audit = check(clean, faulty)
    assert len(audit.gaps) == each == (faulty.planted["kind"] == "spike").sum()


@settings(derandomize=True, max_examples=25, deadline=None)
@given(names=st.lists(st.sampled_from([n for n in BY_ITSELF if FAULT_KINDS[n].place == "hours"] + ["cut_end", "closed_hours", "missing_session"]), min_size=1, max_size=12), seed=st.integers(0, 2**32 - 1))
def test_any_mix(minutes, names, seed):
    "DAT-5: whatever is planted together; what does not lie in a fault is as it was; the clean bars are not touched; the same seed gives the same bytes."
    clean = take_sessions(minutes, 0, 15)
    before = [column.tobytes() for column in clean[:7]]
    faulty = plant_faults(clean, seed, names)
    check(clean, faulty)
    assert [column.tobytes() for column in clean[:7]] == before
    again = plant_faults(clean, seed, names)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(faulty.bars[:7], again.bars[:7])) and faulty.planted.equals(again.planted)
    def rows(bars):  # outside of all faults
        spoilt = np.zeros(n_bars(bars), bool)
        for fault in faulty.planted.itertuples(): spoilt |= (bars.ts >= fault.ts // bars.bar_s * bars.bar_s - 60 * 10**9) & (bars.ts <= fault.end)
        lift = np.zeros(n_bars(bars))
        for fault in faulty.planted[faulty.planted["kind"] == "jump"].itertuples(): lift[bars.ts >= fault.ts] += int(fault.what.split()[0].replace(",", ""))
        return [bars.ts[~spoilt], bars.volume[~spoilt]], [price[~spoilt] - lift[~spoilt] * (bars is faulty.bars) for price in bars[1:5]]
    for a, b in zip(sum(rows(clean), []), sum(rows(faulty.bars), [])): np.testing.assert_array_equal(a, b)


def test_places_are_busy_hours(seconds):
    "DAT-5: a hole at night is no fault, so none is planted there; and not in the first session or the last."
    planted = plant_faults(seconds, 3, ["gap", "missing_session"], 3).planted
    at = ny_time(planted.loc[planted["kind"] == "gap", "ts"])
    assert ((at.hour * 60 + at.minute >= 9 * 60 + 45) & (at.hour < 16)).all()
    days = planted.loc[planted["kind"] == "missing_session", "ts"]
    assert ((days > seconds.ts[seconds.sessions[1] - 1]) & (days < seconds.ts[seconds.sessions[-2]] - 1)).all() and days.is_unique


def fingerprint(folder): return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", [name for name, kind in FAULT_KINDS.items() if kind.door])
def test_a_faulty_file_is_refused_whole(minutes, june, tmp_path, name):
    "DAT-7: one line with the file and the line of the first bad row; not a byte of the store changes."
    store, few = tmp_path / "store", take_sessions(minutes, 0, 15 if FAULT_KINDS[name].place == "week" else 4)
    price_table(take_sessions(minutes, 0, 2)).to_csv(tmp_path / "good.csv", index=False)
    assert import_bars(tmp_path / "good.csv", "MES", store).added == minutes.sessions[2]
    before, faulty = fingerprint(store), plant_faults(few, 5, [name])
    price_table(faulty.bars).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=rf"^bad\.csv line {faulty.planted['row'][0] + 2}\b") as refusal: import_bars(tmp_path / "bad.csv", "MES", store)
    assert "\n" not in str(refusal.value) and fingerprint(store) == before


@pytest.mark.parametrize("kinds_of", ["door", "no door"])
def test_a_file_is_audited_like_its_bars(minutes, tmp_path, kinds_of):
    "DAT-5: what the audit says of a faulty file is what it says of the faulty bars; what comes through the door is found in the store."
    names = [name for name in BY_ITSELF if bool(FAULT_KINDS[name].door) == (kinds_of == "door") and name != "nan"]  # no number: no file can be read with that
    faulty = plant_faults(minutes, 2, [name for name in names if name != "bad_stamp"])  # minutes with half a second look like seconds
    price_table(faulty.bars).to_csv(tmp_path / "file.csv", index=False)
    said = audit_bars(faulty.bars).findings
    assert audit_bars(raw_bars(tmp_path / "file.csv", "MES")["1m"]).findings.equals(said)
    if kinds_of == "door": return
    assert import_bars(tmp_path / "file.csv", "MES", tmp_path / "store").added == n_bars(faulty.bars)
    assert audit_store("MES", tmp_path / "store", "1m").findings.equals(said)
    np.testing.assert_array_equal(load_bars("MES", store=tmp_path / "store", series="1m").close, faulty.bars.close)


def test_a_wrong_zone_tells_by_how_much(seconds):
    "DAT-5: the audit names the hours that put the file right."
    for seed in range(4):
        faulty = plant_faults(seconds, seed, ["wrong_zone"])
        hours = int(faulty.planted["what"][0].split()[-3])
        what = audit_bars(faulty.bars).findings.set_index("kind").loc["outside_hours", "what"]
        assert f"Moved by {-hours:+d} h, 0 would" in what


def test_a_fault_that_was_counted_too_low_is_missed(seconds):
    "Three rows twice, of which an audit tells two: all three are missed, for nobody knows which; one that stands elsewhere is missed too, and one that nobody can see never is."
    faulty = plant_faults(seconds, 2, ["twice", "level_shift"], 3)
    audit, twice = audit_bars(faulty.bars), faulty.planted["kind"] == "twice"
    assert missed_faults(audit, faulty.planted).empty and (faulty.planted.loc[~twice, "finding"] == "").all() and (~twice).sum() == 3
    def told(**change):
        findings = audit.findings.copy()
        for column, value in change.items(): findings.loc[findings["kind"] == "duplicate", column] = value
        return missed_faults(audit._replace(findings=findings), faulty.planted)["kind"].tolist()
    assert (told(count=3), told(count=2), told(first="2024-01-02 10:00:00")) == ([], ["twice"] * 3, ["twice"] * 3)


def test_what_nobody_can_see_has_no_finding(seconds):
    "A fault that adds nothing to any count is planted without a finding, so no audit is blamed for it: a file moved by a second of which no bar leaves its hours."
    inside = seconds._replace(**{name: getattr(seconds, name)[9_000:40_000] for name in ("ts", "open", "high", "low", "close", "volume")}, sessions=np.array([0, 31_000]))
    fault, = plant_faults(inside, 1, ["close_stamp"]).planted.itertuples()
    assert (fault.count, fault.finding) == (0, "")


def test_crossed_quotes_are_sound_by_themselves(seconds):
    "A bid above the ask is a fault of two series: the audit looks at one, and neither of them changes what it says."
    ask = seconds._replace(**{name: getattr(seconds, name) + np.int32(1) for name in ("open", "high", "low", "close")})
    bid, crossed, rows = cross_quotes(seconds, ask, seed=1, count=5)
    assert np.flatnonzero(bid.low > crossed.high).tolist() == rows.tolist()
    assert n_bars(make_bars(*crossed[:6])) == n_bars(ask) and bid.close.tobytes() == seconds.close.tobytes()
    assert set(kinds(audit_bars(crossed))) <= {"spike"}


@pytest.mark.parametrize("change, words", [(dict(kinds=["gremlin"]), "unknown fault 'gremlin'; known: gap, "), (dict(each=0), "each must be >= 1, got 0"),
                                           (dict(kinds=["missing_session"], each=14), "no room for missing_session"), (dict(kinds=["wrong_zone", "gap"]), "no room for gap"),
                                           (dict(kinds=["missed_roll"]), "no room for missed_roll"), (dict(kinds=["gap"], each=2000), "no room for gap")])
def test_what_cannot_be_planted(minutes, change, words):
    "One line, with what would be right."
    with pytest.raises(ValueError, match=words) as refusal: plant_faults(minutes, 1, **change)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="bars must have rows"): plant_faults(make_bars(*[[]] * 6), 1)
