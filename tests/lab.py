"A real Jupyter server and a real Chromium, on this machine."
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')


def launch(pw): return pw.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'])


@contextmanager
def jupyter(home, work, python=sys.executable, app='lab', more=(), env=()):
    "A server on a free port of this machine, with its settings in `home`; its address and token."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    variables = {k: v for k, v in os.environ.items() if not k.startswith('JUPYTER')} | {k: str(home/k.lower()) for k in (
        'HOME', 'JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR', 'IPYTHONDIR')}
    variables |= dict(JUPYTER_PLATFORM_DIRS='1', MPLBACKEND='agg') | dict(env)
    for k in ('HOME', 'IPYTHONDIR'): Path(variables[k]).mkdir(parents=True, exist_ok=True)
    quiet = home/'jupyterlab_settings_dir/@jupyterlab/apputils-extension/notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    args = [python, '-m', app if app != 'lab' else 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}',
            '--ServerApp.port_retries=0', '--ServerApp.token=tok', '--IdentityProvider.token=tok', f'--ServerApp.root_dir={work}',
            *more]
    with open(home/'server.log', 'w') as log: p = subprocess.Popen(args, cwd=work, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            if p.poll() is not None: raise RuntimeError((home/'server.log').read_text()[-3000:])
            try:
                socket.create_connection(('127.0.0.1', port), .2).close()
                break
            except OSError: time.sleep(.1)
        yield f'http://127.0.0.1:{port}'
    finally:
        p.send_signal(signal.SIGTERM)
        try: p.wait(15)
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)
        p.wait()
