"""A build's spec and the keys that are made of it."""

from __future__ import annotations

import pytest

from maskfleet.errors import InvalidInputError
from maskfleet.ids import digest_bytes
from model_compiler.spec import BuildSpec, Margins, cache_key

DIGEST = digest_bytes(b"a model")
SPEC = BuildSpec(DIGEST, "centerface", "ort-cpu")
VERSIONS = {"onnxruntime": "1.32.0", "tensorrt-rtx-cu13": "1.7.1.116"}


def test_a_spec_survives_the_wire() -> None:
    spec = BuildSpec(DIGEST, "yunet", "rtx-turing", "fp16", 640, 352, 0.5, 0.4, Margins(min_cosine=0.9))
    assert BuildSpec.from_json(spec.to_json()) == spec


WRONG = {
    "a digest that is none": {"model_digest": "sha256:12"},
    "a decoder that is none": {"decoder": "retinanet"},
    "a target that is none": {"target": "tpu"},
    "a precision that the target has not": {"precision": "int4"},
    "a size below zero": {"width": -32},
    "a confidence that is no share": {"min_confidence": 35.0},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_spec_is_refused(change: dict[str, object]) -> None:
    values = {"model_digest": DIGEST, "decoder": "centerface", "target": "ort-cpu"} | change
    with pytest.raises(InvalidInputError) as raised:
        BuildSpec(**values)  # type: ignore[arg-type]  # that is the point
    assert raised.value.remedy


def test_the_cache_key_follows_everything_that_the_engine_is_made_of() -> None:
    key = cache_key(SPEC, DIGEST, VERSIONS, "frames")
    other_source = BuildSpec(digest_bytes(b"the same model, saved again"), "centerface", "ort-cpu")
    assert cache_key(other_source, DIGEST, VERSIONS, "frames") == key
    changed = [
        cache_key(SPEC, digest_bytes(b"one weight changed"), VERSIONS, "frames"),
        cache_key(BuildSpec(DIGEST, "centerface", "rtx-turing"), DIGEST, VERSIONS, "frames"),
        cache_key(BuildSpec(DIGEST, "centerface", "ort-cpu", "fp16"), DIGEST, VERSIONS, "frames"),
        cache_key(BuildSpec(DIGEST, "centerface", "ort-cpu", min_confidence=0.6), DIGEST, VERSIONS, "frames"),
        cache_key(SPEC, DIGEST, VERSIONS | {"onnxruntime": "1.33.0"}, "frames"),
        cache_key(SPEC, DIGEST, VERSIONS, "other frames"),
    ]
    assert len({key, *changed}) == len(changed) + 1


def test_a_recipe_follows_source_and_size_as_well() -> None:
    recipes = {
        SPEC.recipe(VERSIONS, "frames"),
        BuildSpec(digest_bytes(b"another file"), "centerface", "ort-cpu").recipe(VERSIONS, "frames"),
        BuildSpec(DIGEST, "centerface", "ort-cpu", width=320, height=192).recipe(VERSIONS, "frames"),
    }
    assert len(recipes) == 3
