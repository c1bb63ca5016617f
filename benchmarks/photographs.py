"The sets of real photographs, each read as it lies on disk."
from pathlib import Path

from lookalikes.imageset import ImageSet

SETS = 'chihuahua_or_muffin', 'paintings', 'kittens_or_cats', 'pet_breeds', 'guitars'
BREED = r'^(.+)_\d+\.jpg$'    # Oxford's file names say the breed; every other set has a folder for each class


def photographs(root, name, n=None):
    "The set `name` below `root`; of about `n` pictures, the same number of each class."
    folder = Path(root)/name
    images = ImageSet.from_names(folder/'images', BREED) if name == 'pet_breeds' else ImageSet.from_folder(folder)
    return images if n is None or n >= len(images) else images.where((images.df.groupby('label').cumcount() < max(5, n//len(images.classes))).to_numpy())
