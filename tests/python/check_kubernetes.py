"""Holds manifests against the schemas of Kubernetes, strictly: no unknown field, no wrong type.

    check_kubernetes.py VERSION FILE...
"""

import sys

import kubernetes_validate
import yaml

if __name__ == "__main__":
    version, checked = sys.argv[1], 0
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            for document in yaml.safe_load_all(file):
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    sys.exit(f"{path}: {list(error.path)}: {error.message}")
                checked += 1
    print(checked)
