"""Pictures a second, and seconds a picture: a bundle behind its server against fastai's `learn.predict` behind the same server.

Same weights (a probe on the bundled efficientnet_lite0, its head inside the Learner), same photographs, same cores, the same Uvicorn on
loopback, in processes of their own that take turns: while one is asked, the other is stopped. Promised: at least 10 times the throughput, and a tenth of the latency of one
picture in-process. The peer is served as people serve it: a FastAPI route that gives the uploaded bytes to `learn.predict`, in the
thread pool that FastAPI has for such routes. Both answer `POST /predict` with one file; both agree on the class.

Also measured: pictures a second of the network alone by how many go through it at once, the reason why the server runs one at a time.
"""
import json, os, signal, statistics, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import machine  # before torch: it hides accelerators from both sides
import httpx
import numpy as np

from lookalikes.imageset import n_cores

PROMISED = 10


def learner(bundle, files):
    "A Learner with the weights of the bundle: fastai's own pipeline around the bundled network, our head as its last layer."
    import torch
    import fastai.callback.progress  # noqa: F401 adds no_bar
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import Normalize
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.augment import Resize
    from fastai.vision.data import ImageBlock
    from safetensors.numpy import load_file
    from lookalikes.backbone import Backbone
    from lookalikes.classifier import ROOT_EPS, Classifier
    clf, b, head = Classifier.load(bundle), Backbone.named(), load_file(bundle/'head.safetensors')
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.weight, self.bias = b.model(), *(torch.nn.Parameter(torch.tensor(head[o])) for o in ('weight', 'bias'))
        def forward(self, x):
            x = self.body(x)
            return (x.sign()*((x.abs()+ROOT_EPS).sqrt()-ROOT_EPS**.5)) @ self.weight.T + self.bias
    block = DataBlock((ImageBlock, CategoryBlock(vocab=clf.classes, sort=False)), get_y=lambda f: clf.classes[0], splitter=lambda o: ([0], [1]),
                      item_tfms=Resize(b.prep.size), batch_tfms=[Normalize.from_stats(b.prep.mean, b.prep.std)])
    dls = block.dataloaders(files[:2], bs=1, num_workers=0, device=torch.device('cpu'))
    return Learner(dls, Net(), loss_func=CrossEntropyLossFlat())


def peer_app(bundle, files):
    from fastai.vision.core import PILImage
    from fastapi import FastAPI, UploadFile
    learn, api, turn = learner(bundle, files), FastAPI(), Lock()     # a Learner keeps what it works on in itself: one at a time
    @api.get('/health')
    def health(): return {}
    @api.post('/predict')
    def predict(file: UploadFile):
        with turn, learn.no_bar(), learn.no_logging(): label, _, probs = learn.predict(PILImage.create(file.file.read()))
        return dict(label=str(label), probabilities=dict(zip(learn.dls.vocab, map(float, probs))))
    return api


def child(side, bundle, files, limit):
    "Serve one side until told to stop; the address on standard output."
    from lookalikes.limits import ServerLimits
    from lookalikes.serve import Server, app
    import torch
    torch.set_num_threads(limit)
    limits = ServerLimits(requests=256, waiting=1024, answer=300)
    server = Server(app(bundle, limits, page=False) if side == 'ours' else peer_app(Path(bundle), files), '127.0.0.1', 0, limits)
    print(server.url, flush=True)
    server.run()


class Side:
    "One side in a process of its own, stopped while the other is measured."
    script = __file__
    def __init__(self, side, bundle, files):
        self.p = subprocess.Popen([sys.executable, self.script, '--child', side, str(bundle), json.dumps([str(f) for f in files[:2]]), str(n_cores())], stdout=subprocess.PIPE, text=True)
        self.url = self.p.stdout.readline().strip()
        self.client = httpx.Client(timeout=300, limits=httpx.Limits(max_connections=64))
        for _ in range(600):
            try: self.client.get(self.url+'health'); break
            except httpx.TransportError: time.sleep(.1)
        self.latencies = []
    def pause(self): os.kill(self.p.pid, signal.SIGSTOP)
    def resume(self): os.kill(self.p.pid, signal.SIGCONT)
    def close(self):
        self.resume()
        self.p.terminate()
        self.p.wait()
    def ask(self, data):
        start = time.perf_counter()
        r = self.client.post(self.url+'predict', files={'file': ('a.jpg', data)})
        self.latencies.append(time.perf_counter()-start)
        r.raise_for_status()
        return r.json().get('predictions', [r.json()])[0]['label']
    def all(self, bodies, at_once):
        self.resume()
        try:
            with ThreadPoolExecutor(at_once) as ex: return list(ex.map(self.ask, bodies))
        finally: self.pause()


def by_batch(bundle, files, sizes=(1, 2, 4, 8, 16), repeats=5):
    "Pictures a second of the network alone, one thread: the median of rounds that take turns."
    from lookalikes.classifier import Classifier
    clf = Classifier.load(bundle)
    pictures = [clf.opened(f) for f in files[:max(sizes)]]
    sides = {str(b): (lambda b=b: [clf.answers(pictures[i:i+b]) for i in range(0, len(pictures), b)]) for b in sizes}
    seconds, _ = machine.interleave(repeats, **{f'batch_{k}': f for k, f in sides.items()})
    return {k: round(len(pictures)/statistics.median(v), 1) for k, v in seconds.items()}


def in_process(bundle, files, repeats):
    "Seconds for one picture after the other, file to label."
    from fastai.vision.core import PILImage
    from lookalikes.classifier import Classifier
    clf, learn = Classifier.load(bundle), learner(bundle, files)
    def theirs():
        with learn.no_bar(), learn.no_logging(): return [str(learn.predict(PILImage.create(f))[0]) for f in files]
    seconds, _ = machine.interleave(repeats, ours=lambda: [clf(f)['label'] for f in files], theirs=theirs)
    return {k: [s/len(files) for s in v] for k, v in seconds.items()}


def main():
    from lookalikes.probe import fit_probe
    from lookalikes.ship import ship
    args, command = machine.arguments(__doc__, pictures=dict(type=int, default=200, help='requests of each round'), at_once=dict(type=int, default=8, help='requests under way at a time'),
                                      repeats=dict(type=int, default=5, help='rounds of each side'))
    facts = machine.facts('fastapi', 'uvicorn')
    images = machine.pet_breeds(args.photos, args.n)
    files = [images.path/f for f in images.df.file][:args.pictures]
    bodies = [f.read_bytes() for f in files]
    with machine.empty_cache(graphs=True), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        bundle = ship(fit_probe(images), Path(tmp)/'model').path
        sides = {}
        try:
            for name in ('ours', 'theirs'):
                sides[name] = Side(name, bundle, files)
                sides[name].all(bodies[:4], 2)
                sides[name].latencies.clear()
            seconds, labels = machine.interleave(args.repeats, **{k: (lambda s=s: s.all(bodies, args.at_once)) for k, s in sides.items()})
            latencies = {k: s.latencies for k, s in sides.items()}
        finally:
            for s in sides.values(): s.close()
        agree = statistics.mean(a == b for a, b in zip(labels['ours'], labels['theirs']))
        alone, batches = in_process(bundle, files[:min(20, len(files))], args.repeats), by_batch(bundle, files)
    rate = {k: [len(bodies)/s for s in v] for k, v in seconds.items()}
    ratios = [a/b for a, b in zip(rate['ours'], rate['theirs'])]
    one = [b/a for a, b in zip(alone['ours'], alone['theirs'])]
    row = dict(pictures=len(bodies), at_once=args.at_once, **machine.flat('ours_per_second', machine.spread(rate['ours'])), **machine.flat('fastai_per_second', machine.spread(rate['theirs'])),
               **machine.flat('times_throughput', machine.spread(ratios)), ours_p99=round(float(np.quantile(latencies['ours'], .99)), 4), fastai_p99=round(float(np.quantile(latencies['theirs'], .99)), 4),
               ours_one=round(statistics.median(alone['ours']), 5), fastai_one=round(statistics.median(alone['theirs']), 5), **machine.flat('times_latency', machine.spread(one)), same_class=round(agree, 4), **batches,
               promised=PROMISED, kept=statistics.median(ratios) >= PROMISED and statistics.median(one) >= PROMISED)
    machine.write(args.out, 'serve', command, facts, [row], dict(row=row))
    machine.say(json.dumps(row, indent=1))


if __name__ == '__main__':
    if sys.argv[1:2] == ['--child']: child(sys.argv[2], sys.argv[3], [Path(o) for o in json.loads(sys.argv[4])], int(sys.argv[5]))
    else: main()
