"""Pictures a second over HTTP: our server against the same classifier behind a plain `gradio.Interface`, as most demonstrations are served.

    python benchmarks/gradio_alone.py --n 300

Same bundle (a probe on the bundled efficientnet_lite0), photographs and cores; a real server for each on loopback, in processes of their own that
take turns: while one is asked, the others are stopped. Ours has its page, as `lookalikes serve` has it, and is asked at `POST /predict`. The peer is
`gradio.Interface(fn, gradio.Image(type='filepath'), gradio.Label())`, asked through its HTTP API by gradio_client, which is how programs ask it: a
request for the file, one for the place in the queue, a stream for the answer. As it comes it answers one call at a time; reported apart is the same
with as many calls at a time as there are cores, a core each, as ours has. All must agree on the class. No ratio is promised.
"""
import json
import os
import queue
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import machine  # before torch: it hides accelerators from all sides
import numpy as np
from serve import Side

from lookalikes.imageset import n_cores


def interface(bundle, wide):
    "The classifier as a page of Gradio's, started; its address."
    import gradio
    from lookalikes.classifier import Classifier
    clf = Classifier.load(bundle)
    def predict(picture): return clf.answers([clf.opened(picture)], alone=not wide)[0]['probabilities']
    page = gradio.Interface(predict, gradio.Image(type='filepath'), gradio.Label(), concurrency_limit=n_cores() if wide else 1)
    return page.launch(server_name='127.0.0.1', prevent_thread_lock=True, quiet=True)[1]


def child(side, bundle):
    "Serve one side until told to stop; the address on standard output."
    if side != 'ours':
        print(interface(bundle, side == 'wide'), flush=True)
        return signal.pause()
    from lookalikes.limits import ServerLimits
    from lookalikes.serve import Server, app
    limits = ServerLimits(requests=256, waiting=1024, answer=300)
    server = Server(app(bundle, limits), '127.0.0.1', 0, limits)
    print(server.url, flush=True)
    server.run()


class Ours(Side):
    script = __file__
    def ask(self, file): return super().ask(file.read_bytes())


class Gradio(Ours):
    "Asked as programs do it, each with a client of its own: one client shared by threads loses answers now and then."
    def __init__(self, *args):
        super().__init__(*args)
        self.idle = queue.SimpleQueue()
    def connected(self):
        from gradio_client import Client
        try: return self.idle.get_nowait()
        except queue.Empty: return Client(self.url, verbose=False, analytics_enabled=False)
    def ask(self, file):
        from gradio_client import handle_file
        client, start = self.connected(), time.perf_counter()
        label = client.predict(handle_file(file), api_name='/predict')['label']
        self.latencies.append(time.perf_counter()-start)
        self.idle.put(client)
        return label
    def pause(self): pass      # its clients keep a stream open, and idle it computes nothing


def measure(bundle, files, args):
    "A row for the table and the details behind it."
    sides = {}
    try:
        for name, side in dict(ours=Ours, gradio=Gradio, wide=Gradio).items():
            sides[name] = side(name, bundle, files)
            sides[name].all(files[:4*args.at_once], args.at_once)     # as many clients as a round has
            sides[name].latencies.clear()
        seconds, labels = machine.interleave(args.repeats, **{k: (lambda s=s: s.all(files, args.at_once)) for k, s in sides.items()})
    finally:
        for s in sides.values(): s.close()
    rate = {k: machine.spread([len(files)/s for s in v]) for k, v in seconds.items()}
    agree = statistics.mean(len(set(o)) == 1 for o in zip(*labels.values()))
    row = dict(pictures=len(files), at_once=args.at_once, **{c: v for k in rate for c, v in machine.flat(f'{k}_per_second', rate[k]).items()}, **machine.times(seconds['gradio'], seconds['ours']),
               **machine.times(seconds['wide'], seconds['ours'], 'ratio_wide'), **{f'{k}_p99': round(float(np.quantile(s.latencies, .99)), 4) for k, s in sides.items()}, same_class=round(agree, 4))
    return row, dict(seconds=seconds)


def main():
    from lookalikes.probe import fit_probe
    from lookalikes.ship import ship
    args, command = machine.arguments(__doc__.splitlines()[0], pictures=dict(type=int, default=200, help='requests of each round'), at_once=dict(type=int, default=8, help='requests under way at a time'),
                                      repeats=dict(type=int, default=5, help='rounds of each side'))
    os.environ |= dict(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1')    # nobody outside is asked
    facts, images = machine.facts('gradio', 'gradio_client', 'fastapi', 'uvicorn'), machine.pet_breeds(args.photos, args.n)
    files = [images.path/f for f in images.df.file][:args.pictures]
    with machine.empty_cache(graphs=True), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        row, detail = measure(ship(fit_probe(images), Path(tmp)/'model').path, files, args)
    machine.write(args.out, 'gradio_alone', command, facts, [row], detail)
    machine.say(json.dumps(row, indent=1))


if __name__ == '__main__':
    if sys.argv[1:2] == ['--child']: child(sys.argv[2], sys.argv[3])
    else: main()
