"""What comes with the package: the example tasks, the recipes, and the templates of `init`.

``tasks`` and ``recipes`` are links to the folders at the root of the checkout, so that a wheel
carries the same files.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def find_example(path: Path) -> Path:
    """``path`` itself, or the file or folder of that name that comes with the package.

    ``tasks/language`` and ``recipes/h100-train.yaml`` mean the same in a checkout and where the
    package was installed from a wheel. What lies in the current folder comes first.
    """
    if path.exists() or path.is_absolute() or not path.parts:
        return path
    packaged = FOLDER / path
    if path.parts[0] in {"tasks", "recipes"} and packaged.exists():
        return packaged
    return path
