"""What the documentation shows can be used, and the published schema is the code's."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from gateway.route import RouteTable, json_schema

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = (DOCS / "routes.example.yaml").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", (DOCS / "routes.md").read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_examples() -> None:
    assert len(BLOCKS) > 5


@pytest.mark.parametrize("text", [EXAMPLE, *BLOCKS])
def test_every_example_can_be_used_and_fits_the_schema(text: str) -> None:
    assert RouteTable.parse(text).document.routes
    Draft202012Validator(json_schema()).validate(yaml.safe_load(text))


def test_the_example_has_everything_there_is() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | set[str]().union(*map(keys, value.values()))
        return set[str]().union(*map(keys, value)) if isinstance(value, list) else set()

    definitions = [json_schema(), *json_schema()["$defs"].values()]
    assert keys(yaml.safe_load(EXAMPLE)) == {key for one in definitions for key in one["properties"]}


def test_the_published_json_schema_is_current() -> None:
    published = DOCS / "routes.schema.json"
    assert json.loads(published.read_text()) == json_schema(), "run: make generate"
