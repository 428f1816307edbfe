"""The editor's schema knows combiners, several teachers, and the judge as a teacher."""

from __future__ import annotations

from potstill.verbs.schema import editor_schema


def test_a_combiner_is_a_kind_or_a_mapping_with_its_own_keys() -> None:
    schema = editor_schema()
    combiner = schema["$defs"]["Combiner"]["anyOf"]
    assert {"type": "string"} in combiner
    by_kind = {
        part["properties"]["kind"]["const"]: part for part in combiner if "const" in part.get("properties", {}).get("kind", {})
    }
    assert {"route", "vote", "best_of", "mixture"} <= set(by_kind)
    assert "rules" in by_kind["route"]["required"]
    assert {"$ref": "#/$defs/Combiner"} in schema["properties"]["combine"]["anyOf"]


def test_teachers_are_one_or_several_and_a_judge_is_one_of_them() -> None:
    schema = editor_schema()
    one, several = schema["properties"]["teacher"]["anyOf"]
    assert several["items"] == one == {"$ref": "#/$defs/Teacher"}
    assert {"type": "string"} in schema["$defs"]["Teacher"]["anyOf"], "a plug-in with a judge takes nothing away from teachers"


def test_every_part_that_is_named_is_there() -> None:
    schema = editor_schema()

    def named(part: object) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"].removeprefix("#/$defs/")} if isinstance(part.get("$ref"), str) else set()
            return own.union(*(named(inner) for inner in part.values()))
        return set().union(*(named(inner) for inner in part)) if isinstance(part, list) else set()

    assert named(schema) <= set(schema["$defs"])
