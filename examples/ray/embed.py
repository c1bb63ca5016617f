"""Embed a bucket on a Ray cluster.

    ray job submit --address http://127.0.0.1:8265 --working-dir examples/ray -- python embed.py s3://my-pictures/zoo s3://my-answers/zoo --workers 1584

`pip install 'ray[default]'` on both sides: only that brings the dashboard, which takes jobs in. To try it on this machine,
`ray start --head`, then the same command with two folders and `--workers 2`; and `ray stop`.

Ends with the number of pictures, and with every failure counted by its reason. Stopped at any moment, the same command goes on.
"""
import argparse

from lookalikes import scale
from lookalikes.engines import Ray


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', help='folder or bucket of pictures, or a table of addresses')
    parser.add_argument('out', help='folder or bucket for the answers')
    parser.add_argument('--workers', type=int, help='a core each; as many as there are now when not given, so give a number where machines come when they are asked for')
    parser.add_argument('--backbone', default='efficientnet_lite0', help='see lookalikes.backbone')
    args = parser.parse_args()
    got = scale.embed(args.src, args.out, args.backbone, Ray(workers=args.workers))
    print(got)
    if len(got.failed): print(got.failed.reason.str.split(' (', n=1, regex=False).str[0].value_counts().to_string())
    if got.worked: print(f'{got.worked:,} pictures in {got.seconds:.0f} s, {got.worked/got.seconds:.0f} a second')


if __name__ == '__main__': main()
