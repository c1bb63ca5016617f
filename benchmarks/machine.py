"What every benchmark shares: the machine's facts, rounds that take turns, the photographs, and where results go."
import argparse, contextlib, json, os, platform, statistics, subprocess, sys, tempfile, time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Both sides are measured on the processor, except in the scripts whose name says otherwise; set before torch looks for a device.
ON_GPU = Path(sys.argv[0]).stem.startswith('gpu_')
if not ON_GPU: os.environ['CUDA_VISIBLE_DEVICES'] = ''

import pandas as pd

from lookalikes.imageset import ImageSet, n_cores, write_atomic

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ('lookalikes', 'torch', 'torchvision', 'timm', 'fastai', 'onnxruntime', 'scikit-learn', 'pillow', 'numpy')


def arguments(description, argv=None, **options):
    "Parse the options of every benchmark and its own (name -> arguments of `add_argument`); returns them and the command as text."
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--photos', type=Path, default=os.environ.get('LOOKALIKES_PHOTOS') or ROOT.parent/'shared'/'photos', help='folder that holds pet_breeds')
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results', help='folder for the results')
    parser.add_argument('--n', type=int, help='use about this many pictures rather than all')
    for name, kw in options.items(): parser.add_argument(f"--{name.replace('_', '-')}", **kw)
    args = parser.parse_args(argv)
    args.photos = args.photos/'pet_breeds'
    if not args.photos.is_dir(): parser.error(f'{args.photos}: no such folder; give the folder of photographs as --photos or LOOKALIKES_PHOTOS')
    # Results name no place on anybody's machine: the two folders stay out, and of any other path it only says that there was one.
    text = lambda v: ' '.join(map(str, v)) if isinstance(v, list) else 'PATH' if isinstance(v, Path) else v
    words = [f"--{k.replace('_', '-')}" + (f' {text(v)}' if v is not True else '') for k, v in vars(args).items() if k not in ('photos', 'out') and v != parser.get_default(k)]
    return args, ' '.join([f'python benchmarks/{Path(sys.argv[0]).name}', *words])


def files_of(folder):
    "The folder itself, or the one in it that holds its pictures, where they lie as they were published."
    return folder/'images' if (folder/'images').is_dir() else folder


def pet_breeds(folder, n=None):
    "The pictures of `folder`, labels from their names; of about `n`, as many classes as leave each ten pictures, none fewer than two."
    images = ImageSet.from_names(folder, r'^(.+)_\d+\.jpg$')
    if n is None: return images
    classes = images.classes[:max(2, n//10)]
    return images.where((images.df.label.isin(classes) & (images.df.groupby('label').cumcount() < max(2, n//len(classes)))).to_numpy())


@contextlib.contextmanager
def empty_cache(graphs=False):
    "A cache of the benchmark's own, so that nobody's is emptied and nothing in it comes from an earlier day; but for `graphs`, exported networks, where their export is in nobody's time."
    from lookalikes.backbone import cache_dir
    before, own = os.environ.get('LOOKALIKES_CACHE'), cache_dir()/'graphs'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if graphs and os.name == 'posix':
            own.mkdir(parents=True, exist_ok=True)
            (Path(folder)/'graphs').symlink_to(own)
        os.environ['LOOKALIKES_CACHE'] = folder
        try: yield Path(folder)
        finally:
            if before is None: del os.environ['LOOKALIKES_CACHE']
            else: os.environ['LOOKALIKES_CACHE'] = before


def _processor():
    if sys.platform == 'linux':
        with contextlib.suppress(OSError):
            names = [o.split(':', 1)[1].strip() for o in Path('/proc/cpuinfo').read_text().splitlines() if o.startswith('model name')]
            if names: return names[0]
    if sys.platform == 'darwin': return subprocess.run(['sysctl', '-n', 'machdep.cpu.brand_string'], capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def _memory():
    import psutil
    return round(psutil.virtual_memory().total/2**30, 1)


def _accelerator():
    import torch
    return torch.cuda.get_device_name()


def _version(package):
    try: return version(package)
    except PackageNotFoundError: return ''


def computer():
    "The processor and its cores, which a table of seconds must name."
    return dict(processor=_processor(), cores=n_cores())


def facts(*more):
    "What a ratio may depend on, and the versions of `more` packages than every benchmark notes. No host name and no path."
    load = round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else ''
    if load and load > n_cores()/4: say(f'others are at work here (load {load} on {n_cores()} cores): such ratios are not for publishing, a network over all cores suffers most')
    return dict(**computer(), memory_gib=_memory(), device='cuda' if ON_GPU else 'cpu', accelerator=_accelerator() if ON_GPU else 'none used',
                os=f'{platform.system()} {platform.release()}', python=platform.python_version(),
                # a machine that others use as well shows here
                load_at_start=load,
                **{o.replace('-', '_'): _version(o) for o in (*PACKAGES, *more)})


def timed(f):
    "Seconds that `f()` takes, and what it gives."
    start = time.perf_counter()
    result = f()
    return time.perf_counter()-start, result


def interleave(repeats, **sides):
    "Run the functions `sides` in turn, `repeats` times each: name -> seconds of each round, name -> result of the last."
    seconds, results = {name: [] for name in sides}, {}
    for i in range(repeats):
        for name, f in sides.items():
            s, results[name] = timed(f)
            seconds[name].append(s)
            say(f'round {i+1} of {repeats}, {name}: {s:.2f} s')
    return seconds, results


def spread(values):
    "Median, lowest, highest, and each."
    return dict(median=statistics.median(values), low=min(values), high=max(values), each=list(values))


def times(peer, ours, name='ratio'):
    "The columns of a ratio, from seconds of rounds that took turns: how many times as fast ours is by the medians, and in the worst and the best round."
    each = [p/o for p, o in zip(peer, ours)]
    return {name: round(statistics.median(peer)/statistics.median(ours), 2), f'{name}_low': round(min(each), 2), f'{name}_high': round(max(each), 2)}


def flat(name, figures):
    "The columns that `spread` fills in a table."
    return {f'{name}_{k}': ' '.join(f'{o:.4g}' for o in v) if k == 'each' else round(v, 4) for k, v in figures.items()}


def say(text): print(text, file=sys.stderr, flush=True)


def write(out, question, command, machine, rows, detail):
    "Add a run to `out`: a line for each of `rows` to `question`.csv, and all of it to `question`.json."
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table, runs = out/f'{question}.csv', out/f'{question}.json'
    head = dict(date=datetime.now(timezone.utc).isoformat(timespec='seconds'), command=command)
    new = pd.DataFrame([head | r | machine for r in rows]).astype(str)
    # as text, so that what earlier runs wrote is written back as it was
    old = pd.read_csv(table, dtype=str, keep_default_na=False) if table.exists() else new[:0]
    write_atomic(table, pd.concat([old, new]).fillna('').to_csv(index=False, lineterminator='\n').encode())
    past = json.loads(runs.read_text(encoding='utf-8')) if runs.exists() else []
    write_atomic(runs, (json.dumps([*past, dict(name=question, **head, machine=machine, **detail)], indent=1, ensure_ascii=False) + '\n').encode())
