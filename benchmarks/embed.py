"""From JPEG files to features: `lookalikes.backbone.embed` against timm's eager loop, as people write it.

Same weights (the bundled efficientnet_lite0), same pictures (the 1,766 of pet_breeds), same cores, input size, crop, interpolation and
scaling. Promised: at least 4 times as fast. Ours opens the exported graph within its time, but finds it exported: the seconds that takes,
once in a cache's life, are reported apart. The peer's network is in memory before its time begins, and of the batch sizes its faster one
counts.
"""
import machine  # before torch: it hides accelerators from both sides
import numpy as np, timm, torch
from PIL import Image

from lookalikes.backbone import DEFAULT, Backbone, embed, onnx_session
from lookalikes.imageset import n_cores
from lookalikes.picture import open_image

PROMISED = 4
SAME = 1e-3  # relative error of features from identical pixels


class Files(torch.utils.data.Dataset):
    "Pictures through a transform."
    def __init__(self, paths, transform): self.paths, self.transform = paths, transform
    def __len__(self): return len(self.paths)
    def __getitem__(self, i): return self.transform(Image.open(self.paths[i]).convert('RGB'))


def timm_transform(model, prep):
    "timm's own, told to do what ours does."
    config = timm.data.resolve_data_config(dict(input_size=(3, prep.size, prep.size), crop_pct=prep.crop_pct, interpolation=prep.interpolation,
                                                mean=prep.mean, std=prep.std), model=model)
    return timm.data.create_transform(**config)


def timm_loop(model, paths, transform, batch_size):
    "Features of every picture."
    loader = torch.utils.data.DataLoader(Files(paths, transform), batch_size=batch_size, num_workers=n_cores())
    with torch.inference_mode(): return torch.cat([model(x) for x in loader]).numpy()


def relative_error(a, b):
    "Distance of each row of `a` from that of `b`, as a share of the latter's length."
    return np.linalg.norm(a-b, axis=1)/np.linalg.norm(b, axis=1)


def on_same_pixels(backbone, model, paths):
    "The largest relative error when both networks get the very same pixels."
    prep = backbone.prep
    pixels = np.stack([prep(open_image(p, min_side=prep.min_side)) for p in paths])
    mean, std = (torch.tensor(o).view(1, 3, 1, 1) for o in (prep.mean, prep.std))
    with torch.inference_mode(): theirs = model((torch.from_numpy(pixels).permute(0, 3, 1, 2)/255 - mean)/std).numpy()
    return float(relative_error(onnx_session(backbone.graph()).run(None, dict(pixels=pixels))[0], theirs).max())


def compare(images, size, args):
    "One input size: a row for the table and the details behind it."
    backbone = Backbone.named(DEFAULT, size)
    export, _ = machine.timed(backbone.graph)
    model = backbone.model()  # in evaluation mode, float32, its classifier reset to 0 classes
    transform, paths = timm_transform(model, backbone.prep), images.paths
    ours = lambda: embed(images, backbone, cache=False, progress=False)
    machine.say(f'{size} px, {len(images):,} pictures; graph exported in {export:.1f} s; warming up')
    machine.timed(ours)
    tried = {b: machine.timed(lambda b=b: timm_loop(model, paths, transform, b))[0] for b in args.batch_sizes}
    best = min(tried, key=tried.get)
    seconds, got = machine.interleave(args.repeats, ours=ours, peer=lambda: timm_loop(model, paths, transform, best))
    features = got['ours']
    if len(features) != len(images): raise SystemExit(f'{len(images)-len(features)} picture(s) cannot be opened; both sides must read the same ones')
    from_files, same = relative_error(features.X, got['peer']), on_same_pixels(backbone, model, paths[:64])
    o, p = (machine.spread(seconds[k]) for k in ('ours', 'peer'))
    row = dict(size=size, pictures=len(images), **machine.flat('ours_s', o), **machine.flat('peer_s', p), ours_per_s=round(len(images)/o['median'], 1),
               peer_per_s=round(len(images)/p['median'], 1), **machine.times(p['each'], o['each']), promised=PROMISED, export_s=round(export, 2),
               peer_batch_size=best, error_same_pixels=f'{same:.1e}', error_files_median=f'{np.median(from_files):.3f}')
    return row, dict(row, ours_s=o, peer_s=p, ratio_each_round=[b/a for a, b in zip(seconds['ours'], seconds['peer'])],
                     peer_warm_up_s=tried, error_same_pixels=same, error_files_median=float(np.median(from_files)), error_files_max=float(from_files.max()))


def main():
    args, command = machine.arguments(__doc__.splitlines()[0],
        repeats=dict(type=int, default=5, help='rounds after the warm-up'),
        sizes=dict(type=int, nargs='+', default=[224, 256], help="input heights and widths, pixels; 256 is the library's own"),
        batch_sizes=dict(type=int, nargs='+', default=[32, 64], help='for the peer; the warm-up round chooses'))
    facts, images = machine.facts(), machine.pet_breeds(args.photos, args.n)
    torch.set_num_threads(n_cores())
    with machine.empty_cache(): rows, details = zip(*[compare(images, size, args) for size in args.sizes])
    machine.write(args.out, 'embed', command, facts, rows, dict(
        peer='timm: create_transform, DataLoader with a worker a core, eager float32 in inference_mode', weights=DEFAULT, results=details))
    for r in rows:
        print(f"{r['size']} px, {r['pictures']:,} pictures: ours {r['ours_per_s']:.0f}/s, timm {r['peer_per_s']:.0f}/s, ratio {r['ratio']:.2f} (promised {PROMISED}); "
              f"features differ by {r['error_same_pixels']} on the same pixels, by {r['error_files_median']} from files")
    if (worst := max(d['error_same_pixels'] for d in details)) >= SAME: raise SystemExit(f'features differ by {worst:.1e} on the same pixels: need less than {SAME:g}')


if __name__ == '__main__': main()
