"""Write the image that was built or pushed here into the cluster.yaml of use cases: `make pin-image OVERLAY=medical`.

    python -m scripts.cluster.pin medical

make deploy needs no such line: it takes the image that was built. kubectl apply -k, Argo CD and Flux do.
"""

import argparse
import re

from scripts.chain import ROOT
from scripts.cluster.overlay import NOT_BUILT, built_image, find_overlay
from scripts.cluster.placement import read_placement
from train.errors import InputError, problem, run_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overlay", help="use case: a directory of kustomize/overlays")
    path = find_overlay(parser.parse_args().overlay) / "cluster.yaml"
    placement, lines = read_placement(path)
    target = placement["image"].rpartition(":")[2].partition("-")[0]
    image = built_image(f"localhost/tunefleet:{target}-{NOT_BUILT}")
    where = path.relative_to(ROOT)
    if image.endswith(NOT_BUILT):
        fix = f"make image push TARGET={target}"
        raise InputError(problem(f"{where}:{lines['image']}", "image", f"no image of target {target} was built", fix))
    text = path.read_text().splitlines(keepends=True)
    line = lines["image"] - 1
    text[line] = re.sub(r"image: \S+", f"image: {image}", text[line])
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text("".join(text))
    aside.rename(path)
    print(f"{where}: image: {image}")


if __name__ == "__main__":
    run_program(main)
