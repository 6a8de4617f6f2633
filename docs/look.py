"""Pictures of every page of the site, for a person to look at: make docs, then python docs/look.py FOLDER [PART OF A NAME ...]

Each page is opened in headless Chromium as a file, 1400 and 390 pixels wide, light and dark; what a page writes as an error, asks
of a network, or lets stick out to the right, is printed, and the exit status is 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from chromium import Chromium  # noqa: E402

SITE = HERE / "_build"
WIDTHS, SCHEMES = (1400, 390), ("light", "dark")
TALLEST = 6000  # pixels of a picture


def pages(site: Path, parts: list[str]) -> list[Path]:
    """The pages that were written, without the files of the repository."""
    names = [p for p in sorted(site.rglob("*.html")) if p.relative_to(site).parts[0] not in ("_static", "files")]
    return [p for p in names if not parts or any(part in str(p.relative_to(site)) for part in parts)]


def look(site: Path, folder: Path, parts: list[str]) -> list[str]:
    """Write the pictures; what is wrong with the pages."""
    found = []
    with tempfile.TemporaryDirectory() as profile, Chromium(Path(profile)) as browser:
        for path in pages(site, parts):
            name = str(path.relative_to(site).with_suffix("")).replace("/", "-")
            browser.requests.clear()
            for width in WIDTHS:
                for scheme in SCHEMES:
                    browser.screen(width, scheme=scheme, mobile=width < 500)
                    browser.open(path)
                    height, wide = browser.run("[document.body.scrollHeight, document.documentElement.scrollWidth]")
                    browser.picture(folder / f"{name}-{width}-{scheme}.png", (0, 0, width, min(height, TALLEST)))
                    found += [f"{name} is {wide} pixels wide at {width}"] if wide > width else []
            found += [f"{name}: {problem}" for problem in browser.problems]
            found += [f"{name} asks for {url}" for url in browser.requests if not url.startswith(("file:", "data:"))]
            browser.problems.clear()
    return found


if __name__ == "__main__":
    to = Path(sys.argv[1])
    to.mkdir(parents=True, exist_ok=True)
    wrong = look(SITE, to, sys.argv[2:])
    print("\n".join(wrong or ["every page loads alone, fits and writes no error"]))
    sys.exit(bool(wrong))
