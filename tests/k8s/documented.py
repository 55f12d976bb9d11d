"""Prints the overlay that docs/kubernetes.md builds up, as a kustomization.yaml.

Usage: documented.py DOCUMENT MESH

MESH is the directory of the overlay mesh, as seen from where the result will lie.
"""

import re
import sys
from pathlib import Path

import yaml


def main(document, mesh):
    kustomization = {}
    for block in re.findall(r"^```yaml\n(.*?)^```", Path(document).read_text(), re.MULTILINE | re.DOTALL):
        part = yaml.safe_load(block)
        # An object that stands for itself is no part of the overlay.
        if part.get("kind", "Kustomization") != "Kustomization":
            continue
        for key, value in part.items():
            if key == "configMapGenerator" and key in kustomization:
                kustomization[key][0]["literals"] += value[0]["literals"]
            else:
                kustomization[key] = value
    kustomization["resources"] = [mesh]
    print(yaml.safe_dump(kustomization))


if __name__ == "__main__":
    main(*sys.argv[1:])
