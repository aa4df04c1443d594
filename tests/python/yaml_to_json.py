"""Prints the documents of YAML files as JSON: a list a file. A key that stands twice in a mapping is refused.

    yaml_to_json.py FILE...
"""

import json
import sys

import yaml


class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(sorted(twice))} twice", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(path):
    with open(path, encoding="utf-8") as file:
        return list(yaml.load_all(file, Loader=Strict))


if __name__ == "__main__":
    json.dump([documents(path) for path in sys.argv[1:]], sys.stdout)
