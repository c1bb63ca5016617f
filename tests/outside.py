"Places without the repository: a package index on this machine, and environments that hold only what pip would bring from it."
import os
import sysconfig
import threading
import venv
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(wheel, *requirements):
    "The installed distributions that `requirements` bring, by name; what the package itself needs is read from `wheel`, since an editable install may be older."
    own, = distributions(path=[str(wheel)])
    mine, found, done = canonicalize_name(own.metadata['Name']), {}, set()
    todo = [Requirement(o) for o in requirements]
    while todo:
        req = todo.pop()
        name = canonicalize_name(req.name)
        for extra in {'', *req.extras}:
            if (name, extra) in done: continue
            done.add((name, extra))
            try: dist = own if name == mine else distribution(name)
            except PackageNotFoundError: continue   # pip will say so, if it is needed on this system
            if name != mine: found[name] = dist
            todo += [o for o in map(Requirement, dist.requires or []) if o.marker is None or o.marker.evaluate({'extra': extra})]
    return found


def environment(path, dists):
    "A new environment in the folder `path` that sees `dists` of the running one and nothing else of it; its interpreter."
    venv.create(path, symlinks=os.name != 'nt')
    lent = path/'lent'
    lent.mkdir()
    for dist in dists.values():
        for top in {f.parts[0] for f in dist.files or []} - {'..', '__pycache__', '/'}:
            if not (lent/top).exists() and dist.locate_file(top).exists(): (lent/top).symlink_to(dist.locate_file(top))
    site = Path(sysconfig.get_path('purelib', 'venv' if 'venv' in sysconfig.get_scheme_names() else sysconfig.get_default_scheme(), vars=dict(base=str(path), platbase=str(path))))
    (site/'lent.pth').write_text(f'{lent}\n', encoding='utf-8')
    return path/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


@contextmanager
def index(wheel):
    "A package index that has one wheel; its address, and the list of the paths that it was asked for."
    asked, page = [], f'<!DOCTYPE html><a href="/{wheel.name}">{wheel.name}</a>'.encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = page if self.path == '/simple/lookalikes/' else wheel.read_bytes() if self.path == f'/{wheel.name}' else b''
            self.send_response(200 if body else 404)
            self.send_header('Content-Type', 'text/html' if body is page else 'application/octet-stream')
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args): pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}/simple/', asked
    finally:
        server.shutdown()
        server.server_close()


def away(index_url=None):
    "Environment variables as somebody has them who knows neither this repository nor its test session."
    mine = 'PIP_', 'UV_', 'JUPYTER', 'PYTHON', 'VIRTUAL_ENV', 'MPLBACKEND', 'LOOKALIKES_PHOTOS', 'PYTEST'
    env = {k: v for k, v in os.environ.items() if not k.startswith(mine)} | dict(LOOKALIKES_OFFLINE='1', PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK='1')
    if 'PYTHONUTF8' in os.environ: env['PYTHONUTF8'] = os.environ['PYTHONUTF8']
    return env | (dict(PIP_INDEX_URL=index_url) if index_url else {})
