"Draw what the site shows of itself: the front page's picture and the icon (SVG, kept in git), and the social card (PNG, made with the site)."
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import resvg_py
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from lookalikes import scene
from lookalikes.draw import draw_with_truth

NBS = Path(__file__).resolve().parents[1]/'nbs'
# What is asked of each pair, then two pictures of the drawn twins: lesson, class, number, how many of its last layers, background, and
# the colour of the first layer where lacquer is painted on later.
PAIRS = [
    ('chihuahua or muffin?', ('chihuahua_or_muffin', 'chihuahua', 23, 2, '#f3dfbd', None), ('chihuahua_or_muffin', 'muffin', 1, 2, '#f3dfbd', None)),
    ('kitten or cat?', ('kittens_or_cats', 'kitten', 1, 3, '#cfe0dc', None), ('kittens_or_cats', 'cat', 4, 3, '#cfe0dc', None)),
    ('Jaguar or Jazzmaster?', ('guitars', 'fender_jaguar', 19, 2, '#e3d4dc', '#3f6f7d'), ('guitars', 'fender_jazzmaster', 6, 2, '#e3d4dc', '#3f6f7d')),
]
INK, PAPER = '#2b2926', '#fbf6ec'


@contextmanager
def overheard():
    "The SVG that drawings hand over to become pixels, in order: a picture before light, fur and camera."
    heard, real = [], scene.raster
    users = [o for o in list(sys.modules.values()) if getattr(o, 'raster', None) is real]

    def raster(body, size):
        heard.append(body)
        return real(body, size)
    for o in users: o.raster = raster
    try: yield heard
    finally:
        for o in users: o.raster = real


def subject(lesson, label, i, layers, background, lacquer):
    "One picture of a drawn twin as shapes in a 100 x 100 square."
    with overheard() as heard: draw_with_truth(lesson, label, 0, i, 64)
    first, *rest = heard[-layers:]
    if lacquer: first = first.replace('fill="#ffffff"', f'fill="{lacquer}"')
    return f'<rect width="100" height="100" fill="{background}"/>' + re.sub(r'(\.\d)\d+', r'\1', ''.join([first, *rest]))


def tile(n, x, y, size, body, radius=9):
    "A picture with round corners."
    return (f'<clipPath id="t{n}"><rect width="100" height="100" rx="{radius}"/></clipPath>'
            f'<g transform="translate({x} {y}) scale({size/100:g})"><g clip-path="url(#t{n})">{body}</g></g>')


def words(text, x, y, size, weight='normal', colour=INK, middle=False):
    "Text as outlines, so that no machine's fonts matter."
    p = TextPath((0, 0), text, size=size, prop=FontProperties(family='DejaVu Sans', weight=weight))
    if middle: x -= (p.get_extents().x0 + p.get_extents().x1)/2
    letter, d = {Outline.MOVETO: 'M', Outline.LINETO: 'L', Outline.CURVE3: 'Q', Outline.CURVE4: 'C', Outline.CLOSEPOLY: 'Z'}, ''
    for points, code in p.iter_segments():
        d += letter[code] + ('' if code == Outline.CLOSEPOLY else ' '.join(f'{x+u:.1f} {y-v:.1f}' for u, v in points.reshape(-1, 2)))
    return f'<path d="{d}" fill="{colour}"/>'


def pairs(x, y, size, gap, between, caption):
    "The pairs in a row, each with its question below."
    out = ''
    for k, (question, *two) in enumerate(PAIRS):
        left = x + k*(2*size + gap + between)
        for j, picture in enumerate(two): out += tile(2*k+j, left + j*(size+gap), y, size, subject(*picture))
        out += words(question, left + size + gap/2, y + size + 1.65*caption, caption, middle=True)
    return out


def svg(width, height, body, title):
    "A whole SVG file."
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"><title>{title}</title>{body}</svg>\n'


def front():
    "The front page's picture, on paper of its own, so that light and dark pages suit it."
    body = f'<rect width="1240" height="274" rx="16" fill="{PAPER}"/>' + pairs(20, 20, 183, 8, 39, 34)
    return svg(1240, 274, body, 'Three pairs of lookalikes: chihuahua or muffin, kitten or cat, Jaguar or Jazzmaster')


def icon():
    "The icon: half chihuahua, half muffin."
    dog, muffin = (subject(lesson, label, i, n, background, None) for lesson, label, i, n, background, _ in PAIRS[0][1:])
    half = '<clipPath id="half"><rect x="50" width="50" height="100"/></clipPath>'
    body = f'<g transform="translate(-12 -8) scale(1.25)">{dog}</g>{half}<g clip-path="url(#half)"><g transform="translate(-14 2) scale(1.12)">{muffin}</g></g>'
    return svg(100, 100, tile(0, 0, 0, 100, body, 22), 'Lookalikes')


def card(tagline):
    "The social card, 1200 x 630."
    one, two = tagline.split(': ', 1)
    cut = two.rfind(' ', 0, 58)
    body = f'<rect width="1200" height="630" fill="{PAPER}"/>' + words('Lookalikes', 60, 130, 84, 'bold') + words(one, 62, 192, 34)
    body += pairs(60, 238, 164, 6, 39, 26) + words(two[:cut], 62, 528, 28) + words(two[cut+1:], 62, 570, 28)
    return bytes(resvg_py.svg_to_bytes(svg_string=svg(1200, 630, body, 'Lookalikes'), skip_system_fonts=True))


if __name__ == '__main__':
    for name, draw in [('lookalikes.svg', front), ('favicon.svg', icon)]: (NBS/name).write_text(draw(), encoding='utf-8', newline='\n')
