"""A served bundle under load: 2,000 requests, 50 at a time, half of them meaning no good.

Asked for: no good request is lost, memory stays bounded, the server is well afterwards. Good requests are photographs; the others are, in turn: a page
named .jpg, a picture of 900 million pixels, half a file, a file too large, a form too large, a body that is no form, names with paths in them, a form that
ends early, bodies sent a letter at a time, and connections that say nothing. Server and clients share the machine's cores.
"""
import json, random, socket, statistics, struct, subprocess, sys, tempfile, threading, time, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import machine  # before torch: it hides accelerators
import httpx
import numpy as np
import psutil

SERVER = 'import sys; from lookalikes.serve import serve; serve(sys.argv[1], port=0, page=False, ready=lambda s: print(s.url, flush=True))'


def bomb(w=30_000, h=30_000):
    "A PNG of a few kilobytes that claims 900 million pixels."
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind+data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 1, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(10**6))) + chunk(b'IEND', b'')


def form(data, name='a.jpg', end=True): return f'--line\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data + b'\r\n--line--\r\n'*end


def head(length): return f'POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=line\r\nContent-Length: {length}\r\n\r\n'.encode()


def raw(port, data, wait=0.):
    "Send bytes, perhaps one at a time; the status that comes back, or None when the server hangs up without one."
    with socket.create_connection(('127.0.0.1', port), timeout=60) as c:
        out = b''
        try:
            for piece in [data] if not wait else [data[i:i+1] for i in range(len(data))]:
                c.sendall(piece)
                time.sleep(wait)
        except OSError: pass
        try:
            while piece := c.recv(65536): out += piece
        except OSError: pass
    return int(out.split()[1]) if out.startswith(b'HTTP/1.1 ') else None


def hostile(jpeg):
    "Name -> function of the port and a client that gives a status, and the statuses that are right."
    post = lambda data, name='a.jpg': lambda port, client: client.post(f'http://127.0.0.1:{port}/predict', files={'file': (name, data)}).status_code
    big = form(b'\xff\xd8\xff' + bytes(70*2**20))
    return {'a page': (post(b'<html><script>alert(1)</script>'), {422}), 'a bomb': (post(bomb()), {422}), 'half a file': (post(jpeg[:len(jpeg)//2]), {422}), 'a file too large': (post(b'\xff\xd8\xff' + bytes(21*2**20)), {413}),
            'a form too large': (lambda port, client: raw(port, head(len(big)) + big), {413, None}), 'no form': (lambda port, client: client.post(f'http://127.0.0.1:{port}/predict', content=b'{}', headers={'content-type': 'application/json'}).status_code, {415}),
            'a path for a name': (post(b'x', '../../../../tmp/owned.jpg'), {422}), 'a form that ends early': (lambda port, client: raw(port, head(len(form(jpeg, end=False))) + form(jpeg, end=False)), {400}),
            'a letter at a time': (lambda port, client: raw(port, head(1000) + form(jpeg)[:200], .06), {408, None}), 'silence': (lambda port, client: raw(port, b'POST /predict HTT'), {408, None})}


def main():
    from lookalikes.probe import fit_probe
    from lookalikes.ship import ship
    args, command = machine.arguments(__doc__.splitlines()[0], requests=dict(type=int, default=2000, help='in all, half of them good'), at_once=dict(type=int, default=50, help='under way at a time'))
    facts, images = machine.facts('fastapi', 'uvicorn'), machine.pet_breeds(args.photos, args.n)
    with machine.empty_cache(graphs=True), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        bundle = ship(fit_probe(images), Path(tmp)/'model').path
        bodies = [(images.path/f).read_bytes() for f in images.df.file[:100]]
        p = subprocess.Popen([sys.executable, '-c', SERVER, str(bundle)], stdout=subprocess.PIPE, text=True)
        try:
            port = httpx.URL(p.stdout.readline().strip()).port
            row = storm(port, p.pid, bodies, args)
        finally:
            p.terminate()
            p.wait()
    row['stopped_with'] = p.returncode
    machine.write(args.out, 'load', command, facts, [row], dict(row=row))
    machine.say(json.dumps(row, indent=1))


def storm(port, pid, bodies, args):
    "All requests in random order; what came of them."
    url, server, kinds = f'http://127.0.0.1:{port}/', psutil.Process(pid), hostile(bodies[0])
    client = httpx.Client(timeout=120, limits=httpx.Limits(max_connections=args.at_once))
    for b in bodies[:8]: client.post(url+'predict', files={'file': ('a.jpg', b)}).raise_for_status()
    before, most, over, seconds, wrong = server.memory_info().rss, [0], threading.Event(), [], []
    def watch():
        while not over.wait(.05): most[0] = max(most[0], server.memory_info().rss)
    def good(i):
        start = time.perf_counter()
        r = client.post(url+'predict', files={'file': ('good.jpg', bodies[i % len(bodies)])})
        seconds.append(time.perf_counter()-start)
        if r.status_code != 200 or not r.json()['predictions'][0]['label']: wrong.append(('good', r.status_code))
    def bad(i):
        name = list(kinds)[i % len(kinds)]
        ask, right = kinds[name]
        try: said = ask(port, client)
        except httpx.HTTPError as e: said = type(e).__name__      # refused and hung up on before all was sent
        if said not in right and not (isinstance(said, str) and 413 in right): wrong.append((name, said))
    jobs = [(good, i) for i in range(args.requests//2)] + [(bad, i) for i in range(args.requests-args.requests//2)]
    random.Random(0).shuffle(jobs)
    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    with ThreadPoolExecutor(args.at_once) as ex: list(ex.map(lambda o: o[0](o[1]), jobs))
    took = time.perf_counter()-start
    over.set()
    q = np.quantile(seconds, [.5, .99])
    return dict(requests=args.requests, at_once=args.at_once, seconds=round(took, 1), good=len(seconds), good_lost=sum(k == 'good' for k, _ in wrong), wrongly_answered=len(wrong), what=str(wrong[:5]), median=round(q[0], 3), p99=round(q[1], 3),
                slowest=round(max(seconds), 3), mean=round(statistics.mean(seconds), 3), mib_before=round(before/2**20), mib_most=round(most[0]/2**20), health=httpx.get(url+'health').text)


if __name__ == '__main__': main()
