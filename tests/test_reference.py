"""The values that engines are compared with: exactly those of fp32, computed once per weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model
from transformers import AutoModelForCausalLM

from augment_service import reference
from augment_service.reference import FILE, compute_reference, find_reference, write_reference
from data.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose weights are stored in 16 bits."""
    folder = make_model(tmp_path_factory.mktemp("model"), 0, tied=True)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def plain(folder: Path, dtype: torch.dtype, rows: object) -> torch.Tensor:
    """The slow twin: a whole second model of that type."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    ids = torch.tensor(rows)
    with torch.inference_mode():
        logits = model(ids).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def test_values_are_those_of_fp32_and_the_rounding_is_that_of_16_bits(model: Path) -> None:
    found = compute_reference(model, ("bfloat16",))
    exact = plain(model, torch.float32, found.rows)
    assert torch.equal(torch.tensor(found.values), exact)
    difference = (plain(model, torch.bfloat16, found.rows) - exact).abs()
    rounding = found.roundings["bfloat16"]
    assert (rounding.mean, rounding.max) == pytest.approx((difference.mean().item(), difference.max().item()))
    assert 0 < rounding.mean < rounding.max


def test_soft_capping_is_part_of_the_reference(tmp_path: Path) -> None:
    """As the model is defined: the default attention of transformers would leave it out."""
    folder = make_model(tmp_path / "capped", 0, tied=True, kind="gemma2")
    found = compute_reference(folder, ())
    assert torch.equal(torch.tensor(found.values), plain(folder, torch.float32, found.rows))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "attn_logit_softcapping": None}))
    uncapped = compute_reference(folder, (), rows=found.rows)
    assert (torch.tensor(found.values) - torch.tensor(uncapped.values)).abs().max() > 0.1


def test_weights_that_are_not_finite_have_none(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", 0, tied=True)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor / 0 for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(InputError, match="finite") as raised:
        compute_reference(folder)
    assert raised.value.where == str(folder)


def test_pairs_of_rows_share_a_prefix_that_is_longer_than_a_block(model: Path) -> None:
    rows = compute_reference(model, ()).rows
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1
    for first, second in (rows[:2], rows[2:]):
        assert first[: reference.NUM_PREFIX] == second[: reference.NUM_PREFIX]
        assert first[reference.NUM_PREFIX :] != second[reference.NUM_PREFIX :]
    assert compute_reference(model, ()).rows == rows  # what the model writes for it is the same each time


def test_it_is_computed_once(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_reference(model, torch.float32)
    assert len(list((cache / "entail" / "references").glob("*.json"))) == 1

    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded again")

    with monkeypatch.context() as patch:
        patch.setattr(reference, "_load", refuse)
        assert find_reference(model, torch.float32) == first
        with pytest.raises(AssertionError):
            find_reference(model, torch.bfloat16)  # this rounding is not known yet
    assert find_reference(model, torch.bfloat16).values == first.values
    next((cache / "entail" / "references").glob("*.json")).write_text('{"version": 1')
    assert find_reference(model, torch.float32) == first  # a damaged file is not read


def test_the_file_beside_the_weights_is_read_unless_a_fresh_one_is_asked_for(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", 1, tied=False)
    found = compute_reference(folder)
    write_reference(folder / FILE, found)
    content = json.loads((folder / FILE).read_text())
    content["values"][0][0] = -99.0
    (folder / FILE).write_text(json.dumps(content))
    assert find_reference(folder, torch.bfloat16).values[0][0] == -99.0
    assert find_reference(folder, torch.bfloat16, fresh=True) == found


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", 1, tied=False)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": {}, "hidden_size": "x"}))
    with pytest.raises(InputError) as raised:
        find_reference(folder, torch.float32)
    assert raised.value.where == str(folder)
