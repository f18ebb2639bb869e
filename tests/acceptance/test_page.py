"The report's page and two runs side by side: what a desk head prints (BT-10, BT-11)."
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from mesbot.config import load_config
from mesbot.pages import thin
from mesbot.report import compare, make_report, read_run, render
from mesbot.synth import synthetic_market

NEW = ("gates", "stress", "fan", "paths", "trials")


def own_part(html): return re.sub(r'<script id="plotly">.*?</script>(?=</head>)', "", html, count=1, flags=re.S)  # without the library
def words(html): return re.sub(r'base64,[^"]+"', "", re.sub(r"<script>.*?</script>", "", own_part(html), flags=re.S))
def drawings(html): return [json.loads("[" + text + "]") for text in re.findall(r"<script>Plotly\.newPlot\((.*?)\)</script>", html, re.S)]


def fill(folder, name):
    "What the statistics write, in numbers that are easy to find on the page."
    gates = [dict(gate="deflated Sharpe ratio", value=.8765, bound=.95, sense=">=", passed=False, reason="luck among 47 tries shows as much", gates=True), dict(gate="no look-ahead", value=1., bound=1., sense="yes", passed=True, reason="", gates=True),
             dict(gate="accuracy", value=.4567, bound=.6023, sense=">=", passed=False, reason="", gates=False)]
    stress = [dict(case=case, trades=9, net_usd=net, net_ticks=-1.5, net_ticks_low=np.nan, sharpe=np.nan, max_drawdown_usd=44.) for case, net in (("as traded", -55.), ("costs x 1.5", -7654.), ("one tick more", -66.))]
    fan = [dict(session=k, q05=900. - k, q25=950., q50=1000., q75=1050., q95=1100. + k) for k in range(20)]
    tables = {"gates": gates, "stress": stress, "fan": fan, "paths": [dict(path=k, sharpe=k - 4., net_usd=1.) for k in range(9)], "trials": [dict(hash=f"{k:x}", kind="walk", sharpe=float(k), days=3, net_usd=1., created_utc="") for k in range(9)]}
    for file, rows in tables.items(): pd.DataFrame(rows).assign(predictor=name).to_parquet(folder / f"{file}.parquet")
    metrics = json.loads((folder / "metrics.json").read_text())
    luck = dict(psr=.5, psr_null=None, dsr=.8765, benchmark_sharpe=2.25, trials=47, effective_trials=11.5, pbo=.123, oos_loss=.2, spa=.4, timing=.6, min_track_record=None, min_backtest=3.1)
    more = {"luck": {name: luck}, "overfitting": dict(pbo=.123, oos_loss=.2, slope=-.1, splits=12870, configurations=47, histogram=[[-1, 0, 1], [3, 9]]), "ledger": dict(trials=61, covering=47, effective=11.5, days=3),
            "montecarlo": {name: dict(paths=10_000, sessions=19, p_loss=.9, final_q05_usd=801., final_q50_usd=902., final_q95_usd=1003., drawdown_q95_usd=250., drawdown_q99_usd=299., p_ruin=.345, p_day_limit=.4, day_limit_rate=.11, under_water_q95=17)},
            "challenge": [dict(predictor=name, rules="topstep-50k", scale=10., attempts=1000, pass_rate=.071, pass_low=.05, pass_high=.09, days_q50=None, breaches={"max_loss": 250, "day_loss": 0}, gate=False)]}
    metrics["verdict"]["reasons"] = [f"reason {k}" for k in "abcde"]
    (folder / "metrics.json").write_text(json.dumps(metrics | more))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "A run of rules only as written; the same with every table of the statistics; the same as an older version left it; one without a trade."
    tmp = tmp_path_factory.mktemp("page")
    def made(name, **sections):
        config = load_config(paths={"runs": str(tmp)}, models={"predictors": ["always_flat", "rsi_rule"]}, **sections)
        return make_report(synthetic_market(2, seed=5).bars, config, {"kind": "synthetic", "title": "2 sessions", "alpha": 0}, name)[1].parent
    folders = {"plain": made("plain"), "quiet": made("quiet", trader={"min_confidence": .99}), "other": made("other", stops={"target_ticks": 20})}
    for name in ("full", "older"): shutil.copytree(folders["plain"], folders.setdefault(name, tmp / name))
    fill(folders["full"], "rsi_rule")
    for name in NEW: (folders["older"] / f"{name}.parquet").unlink(missing_ok=True)
    metrics = json.loads((folders["older"] / "metrics.json").read_text())
    (folders["older"] / "metrics.json").write_text(json.dumps({k: v for k, v in metrics.items() if k not in ("luck", "overfitting", "montecarlo", "challenge", "ledger")}))
    for name in ("full", "older"): render(folders[name])
    return folders


@pytest.fixture(scope="module")
def pages(runs): return {name: (folder / "report.html").read_text() for name, folder in runs.items()}


def check_offline(html):
    own = own_part(html)
    assert html.count('<script id="plotly">') == (1 if "Plotly.newPlot" in own else 0)
    assert not re.findall(r"https?:|<link|@import|url\(|\bfetch\(|XMLHttpRequest|<iframe", own)
    assert not re.findall(r'(?:src|href)="(?!data:)', own) and "<script src" not in html
    assert all(text.startswith("Plotly.newPlot(") for text in re.findall(r"<script>(.*?)</script>", own, re.S))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', own)[1]
    assert policy.startswith("default-src 'none';") and "http" not in policy and "connect-src" not in policy and "<script" not in html.partition("Content-Security-Policy")[0]


def test_every_page_works_without_a_network(pages):
    "BT-11: nothing outside the file is named, plotly is inside once where something is drawn by it, and the browser may load nothing."
    for html in pages.values(): check_offline(html)
    assert "Plotly.newPlot" in pages["plain"] and "Plotly.newPlot" not in pages["quiet"] and len(pages["quiet"]) < 2_000_000


def test_the_drawn_account_is_that_of_the_run(runs, pages):
    "BT-11: the interactive equity ends where the account ends, and shows the deepest drawdown whole, with at most some 2,000 points a line."
    equity = read_run(runs["plain"]).equity
    (_, traces, layout, _), = drawings(pages["plain"])
    assert {trace["name"] for trace in traces} == set(equity.columns) - {"ts"}
    for top, low in zip(traces[:len(traces) // 2], traces[len(traces) // 2:]):
        y = equity[top["name"]].to_numpy()
        assert top["y"][-1] == pytest.approx(y[-1], abs=.006) and min(low["y"]) == pytest.approx((y - np.maximum.accumulate(y)).min(), abs=.006) and low["yaxis"] == "y2"
        assert all(len(trace["x"]) == len(trace["y"]) <= 2000 and trace["x"] == sorted(trace["x"]) for trace in (top, low)) and len(y) > 50_000
    assert {layout["yaxis"]["title"]["text"], layout["yaxis2"]["title"]["text"]} == {"account, $", "drawdown, $"}


def test_thinning_keeps_one_bad_second():
    y = np.zeros(1_000_000)
    y[123_457] = -50
    assert y[thin(y)].min() == -50 and len(thin(y)) <= 2000


def test_paper_and_closed_scripts_get_the_picture(pages):
    "BT-11: the curve is also a picture, shown in print and where scripts are off; every reason of the verdict is printed."
    html = pages["plain"]
    assert len(re.findall(r'<div class="still"><img [^>]+src="data:image/png;base64', html)) == 1
    assert "<noscript><style>.live{display:none}.still{display:block}</style></noscript>" in html
    printed = html.partition("@media print{")[2].partition("</style>")[0]
    assert ".live{display:none}" in printed and ".still{display:block}" in printed and ".verdict details::details-content{content-visibility:visible" in printed


def test_the_page_answers_in_the_order_of_the_questions(pages):
    "BT-11: verdict, three reasons, key numbers; then money, gates, luck, costs, account, folds, hours, trades, direction; every picture has words for those who cannot see it."
    html = words(pages["full"])
    order = ["No edge", "Reason a.", "Reason c.", "2 more", "Reason d.", "Net after costs", "Equity and drawdown", "<h2>Gates", "How lucky was it?", "Does it survive its costs?", "Cost stress", "Ambiguous bars", "Could the account bear it?", "Challenges", ">Folds<",
             "Trades by hour and weekday", "Regimes and quarters", "The trades", "From bars to entries", "Sense of direction", "Is a probability what it says?", "What the models lean on", "Can the features be believed?", "Words", "Provenance"]
    found = [html.find(text) for text in order]
    assert min(found) > 0 and found == sorted(found), dict(zip(order, found))
    assert all(re.search(r'alt="[^"]{4,}"', image) for image in re.findall(r"<img[^>]*>", html)) and html.count("<img") >= 9
    for name, page in pages.items(): assert not re.search(r"\bnan\b|\bNone\b|Traceback|Warning:", words(page)), name


def test_gates_luck_stress_and_paths_are_told_with_their_bounds(pages):
    "BT-10, BT-11: value, bound, verdict and reason of each gate; accuracy beside always-flat and never a gate; luck, stress, Monte Carlo and challenge in numbers."
    html = words(pages["full"])
    rows = {re.sub(r"<[^>]+>", "", cells[0]): [re.sub(r"<[^>]+>", "", cell) for cell in cells[1:]] for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.S) if (cells := re.findall(r"<td[^>]*>(.*?)</td>", row, re.S))}
    assert rows["Deflated Sharpe ratio"] == ["0.876", "≥\u00a00.95", "FAILED", "luck among 47 tries shows as much"] and rows["No look-ahead"][:3] == ["yes", "yes", "passed"]
    assert rows["Accuracy"][:3] == ["0.457", "beside\u00a00.602", "shown only"] and "passes <b>1 of 2</b>" in html
    assert rows["costs x 1.5"][1:5] == ["−7,654", "−1.50", "–", "–"] and rows["Is the best of the past an ordinary one in the future?"] == ["PBO", "12.3%", "≤ 20%, or the next ≤ 5%"]
    assert rows["topstep-50k"] == ["×\u00a010", "1,000", "7%", "5% to 9%", "–", "max loss 25%", "no"]
    assert "<b>47</b> in the ledger" in html and "<td class=\"number\">1,003</td>" in html and "34.5%" in html and "10,000 paths of 19 sessions" in html and 'alt="Monte Carlo fan of the account"' in html


def test_an_older_run_and_one_without_a_trade_still_read_well(pages):
    "A folder without the newer tables, and a run that never traded, leave out what they do not have and say so."
    for heading in ("<h2>Gates", "How lucky was it?", "Cost stress", "Could the account bear it?"): assert heading not in words(pages["older"])
    for heading in ("Equity and drawdown", "Where the money went", "From bars to entries", "Provenance"): assert heading in words(pages["older"]) and heading in words(pages["quiet"])
    assert "not one trade was made" in pages["quiet"] and "every account stays where it began" in pages["quiet"] and "Net after costs" not in words(pages["quiet"])


def test_two_runs_side_by_side(runs):
    "BT-11: both verdicts, the settings that differ and no others, key numbers with their difference, the equity of both; a folder that is no run is refused and leaves nothing behind."
    out = compare(runs["plain"], runs["other"])
    html, before = words(out.read_text()), set(runs["plain"].parent.iterdir())
    check_offline(out.read_text())
    a, b = (json.loads((runs[name] / "metrics.json").read_text()) for name in ("plain", "other"))
    for m in (a, b): assert m["verdict"]["sentence"] in html
    settings = html.partition("What differs")[2].partition("Key numbers")[0]
    assert re.findall(r'<td class="word">([a-z_]+\.[a-z_]+)</td><td class="word">(\S+)</td><td class="word">(\S+)</td>', settings) == [("stops.target_ticks", "12", "20")] and "Different settings." in settings and "Same bars, code, features." in settings
    net = [m["predictors"]["rsi_rule"]["net_usd"] for m in (a, b)]
    said = [f"{v:,.0f}".replace("-", "−") for v in net] + [f"{net[1] - net[0]:+,.0f}".replace("-", "−")]
    assert net[0] != net[1] and "".join(f'<td class="number">{v}</td>' for v in said) in html
    (_, traces, _, _), = drawings(out.read_text())
    assert [trace["name"] for trace in traces[:2]] == ["A: rsi_rule", "B: rsi_rule"] and [trace["y"][-1] for trace in traces[:2]] == pytest.approx([1000 + v for v in net], abs=.006)
    with pytest.raises(FileNotFoundError, match="no run folder"): compare(runs["plain"], runs["plain"].parent)
    assert set(runs["plain"].parent.iterdir()) == before
    same = words(compare(runs["plain"], runs["plain"]).read_text())
    assert "Same bars, settings, code, features." in same and "they are the same" in same
    old = words(compare(runs["older"], runs["full"]).read_text())
    assert "<h2>Gates" in old and "A is better" not in old


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_browser_draws_it(runs):
    "BT-11: the page's own policy lets plotly draw, from the file alone."
    done = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * 0.0.0.0", "--virtual-time-budget=4000", "--dump-dom", f"file://{runs['plain']}/report.html"], capture_output=True, text=True)
    body = done.stdout.partition("<body>")[2]
    assert body.count('class="main-svg"') >= 2 and body.count('class="trace scatter') >= 4
