"""What each comparison promises, and where in `results/` its ratio stands: the one table that `all.py` and the site's page of benchmarks read.

A ratio says how many times as fast ours is. `ratio` names its column; the least and the most of its rounds stand beside it as `_low` and `_high`.
Of the runs that `where` and `full` let through, the latest counts, and a run that began on a quiet machine before one that did not.
"""
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parent/'results'
QUIET = 1/4     # load for each core, in the minute before a run


@dataclass(frozen=True)
class Promise:
    "A comparison that one ratio sums up."
    question: str               # its script, and its table in `results/`
    work: str
    peer: str
    promised: float | None = None   # None: nothing was promised, the ratio is told all the same
    ratio: str = 'ratio'
    where: str = ''             # which rows of the table, in the words of `DataFrame.query`
    full: str = ''              # which of those had enough pictures to be published
    each: tuple = ()            # a run that writes each row as it is measured: what tells its rows apart


PROMISES = [
    Promise('probe', 'photographs to a judged classifier of 37 breeds', "fastai's fine_tune, to the same error", 20, where="goal == 'our error'", full='pictures >= 1000'),
    Promise('embed', 'JPEG files to features', "timm's eager DataLoader loop", 4, where='size == 256', full='pictures >= 500'),
    Promise('epoch', 'an epoch of fine-tuning, every layer learning', 'fastai Learner, as in its book', 2, full='n >= 300'),
    Promise('finetune', 'files to a fine-tuned network, five sets', "fastai's fine_tune, as many epochs", 3, 'times_faster', 'fastai_seconds.notna()', 'pictures >= 150 and epochs == 2', ('lesson', 'seed')),
    Promise('gpu_train', 'five epochs of fine-tuning on a GPU', 'fastai Learner, mixed precision', 5, full='n >= 1000'),
    Promise('audit', 'audit, the checks that cleanvision has', 'cleanvision, all checks', 3, where='side.isna()', full='n >= 2000'),
    Promise('audit', 'audit, with labels, outliers and embeddings', 'cleanvision, all checks', 1, 'ratio_whole', 'side.isna()', 'n >= 2000'),
    Promise('audit', 'the same audit, photographs of 1,024 px', 'cleanvision, all checks', 1, 'ratio_whole', 'side == 1024', 'n >= 500'),
    Promise('dedup', 'copies, from hashes', "imagededup's PHash"),
    Promise('dedup', 'copies, from hashes and embeddings', "imagededup's PHash", ratio='ratio_embeddings'),
    Promise('circles', 'drawing circles, 64 and 96 px', 'matplotlib, a figure a picture', 50, where='size < 200'),
    Promise('circles', 'drawing circles, 224 px', 'matplotlib, a figure a picture', 50, where='size == 224'),
    Promise('fetch', 'download from a slow server', "fastai's download_images", 2, where="side == 'fastai'", full='pictures >= 1000'),
    Promise('fetch', 'download of a longer list', 'img2dataset', 1, where="side == 'img2dataset' and pictures > of_photographs", full='pictures >= 1000'),
    Promise('serve', 'answers over HTTP, pictures a second', 'learn.predict behind the same server', 10, 'times_throughput', full='pictures >= 100'),
    Promise('serve', 'one picture in-process', 'learn.predict', 10, 'times_latency', full='pictures >= 100'),
    Promise('gradio_alone', 'answers over HTTP, pictures a second', 'gradio.Interface, as it comes', full='pictures >= 100'),
    Promise('gradio_alone', 'answers over HTTP, pictures a second', 'gradio.Interface, a call a core', ratio='ratio_wide', full='pictures >= 100')]


def rows(promise, folder=RESULTS, full=True):
    "The rows of the run that counts; none where there is no such run. Not `full`: however few its pictures."
    table = Path(folder)/f'{promise.question}.csv'
    if not table.exists(): return pd.DataFrame()
    d = pd.read_csv(table)
    for o in (promise.where, promise.full if full else ''): d = d.query(o, engine='python') if o else d
    if d.empty: return d
    run = d.command if promise.each else d.date
    runs = d.groupby(run)
    quiet, last = runs.load_at_start.first() <= runs.cores.first()*QUIET, runs.date.max()
    d = d[run == max(last.index, key=lambda o: (quiet[o], last[o]))]
    return d.drop_duplicates(list(promise.each), keep='last') if promise.each else d


def figures(promise, d):
    "Median of the ratios in rows `d`, the least and the most of their rounds (of the rows, where rounds were not noted), and whether that is only a bound."
    value = d[f'{promise.ratio}_median' if f'{promise.ratio}_median' in d else promise.ratio]
    beside = {k: d.get(f'{promise.ratio}_{k}', value if len(d) > 1 else value*float('nan')) for k in ('low', 'high')}
    return dict(ratio=value.median(), low=beside['low'].min(), high=beside['high'].max(), at_least=bool((d.get('ratio_is', pd.Series(dtype=str)) == 'more than').any()))


def measured(folder=RESULTS, full=True, promises=PROMISES):
    "A row for each promise: ratio, its spread, whether it was kept, when, on which machine. Without a ratio: not measured."
    found = []
    for p in promises:
        d, row = rows(p, folder, full), dict(question=p.question, work=p.work, peer=p.peer, promised=p.promised)
        if len(d):
            o, f = d.iloc[-1], figures(p, d)
            where = o.accelerator if o.device == 'cuda' else f'{o.cores} cores of {o.processor}, {o.memory_gib} GiB'
            row |= dict(f, kept=bool(f['ratio'] >= p.promised) if p.promised else None, date=o.date[:10], quiet=bool(d.load_at_start.iloc[0] <= o.cores*QUIET), machine=f'{where}, {o.os.split()[0]}', command=o.command)
        found.append(row)
    columns = ['question', 'work', 'peer', 'promised', 'ratio', 'low', 'high', 'at_least', 'kept', 'date', 'quiet', 'machine', 'command']
    return pd.DataFrame(found, columns=columns).astype(dict(promised=float, ratio=float, low=float, high=float, kept=object, date=object))


def as_text(m, said=None):
    "What `measured` gives, to be read; `said` (question -> words) takes the place of the verdict."
    def times(v, more=''): return '' if pd.isna(v) else f'{more}{v:.{2 if v < 2 else 1 if v < 20 else 0}f}x'
    def verdict(r): return (said or {}).get(r.question) or ('not measured' if pd.isna(r.ratio) else 'nothing promised' if pd.isna(r.promised) else 'yes' if r.kept else 'no')
    return pd.DataFrame([{'work': r.work, 'peer': r.peer, 'promised': '' if pd.isna(r.promised) else f'{r.promised:g}x', 'measured': times(r.ratio, '> ' if r.at_least is True else ''),
                          'least': times(r.low), 'most': times(r.high), 'kept': verdict(r), 'date': r.date if isinstance(r.date, str) else ''} for r in m.itertuples()])
