"What a process does that `warm` in conftest.py has forked, or started anew."
import multiprocessing
import os
import runpy
import sys


def settle(folder, env, out, err):
    "As a process that a shell starts: its own group, nothing to read, and what it says in two files."
    if hasattr(os, 'setsid'): os.setsid()
    for old, name, mode in (0, os.devnull, 'r'), (1, out, 'w'), (2, err, 'w'):
        with open(name, mode) as f: os.dup2(f.fileno(), old)
    multiprocessing.set_start_method(None, force=True)      # the default, and not that of the process it was forked from
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)


def notebook(nb, *where):
    "Run a notebook as `nbdev-test` does."
    settle(*where)
    sys.path.insert(0, '')
    from nbdev.test import nbdev_test       # called with its arguments, since the command itself may not be on PATH, and without them it takes every notebook there is
    nbdev_test(nb, n_workers=0, timing=True)


def python(args, *where):
    "Run `python SCRIPT ...` or `python -c CODE ...`."
    settle(*where)
    if args[0] == '-c':
        sys.argv, main = ['-c', *args[2:]], type(sys)('__main__')
        sys.path.insert(0, '')
        sys.modules['__main__'] = main
        exec(compile(args[1], '<string>', 'exec'), vars(main))
    else:
        sys.argv = list(args)
        sys.path.insert(0, os.path.dirname(args[0]))
        runpy.run_path(args[0], run_name='__main__')
