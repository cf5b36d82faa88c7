"""text_cnn: its layers, its frozen encoder, what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clray import registry
from clray.errors import BadData, BadInput, BadSpec, UnknownName
from clray.models import text_encoder
from clray.models.classifier import Classifier, ModelConfig
from clray.models.per_example import squared_gradients
from clray.spec import Component
from clray.streams import pretrained, tokens
from tests.text_material import SPECIAL, WIDTH, WORDS, save_encoder

VOCABULARY = len(SPECIAL) + len(WORDS)
SHAPE = (3, 12, 1)
STATES = (WIDTH, 12, 1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def config_of(encoder: str | None = None, **knobs: Any) -> ModelConfig:
    component = Component(name="text_cnn", encoder=encoder, **knobs)
    config: ModelConfig = registry.configure("model", component)
    return config


def texts(*ids: int) -> torch.Tensor:
    """Token ids of texts that end in padding, as a network gets them; the first ones are given."""
    drawn = torch.randint(4, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
    drawn[0, : len(ids)] = torch.tensor(ids)
    drawn[1:, 7:] = tokens.PADDING
    return tokens.as_bytes(drawn) / 255


def test_is_that_of_the_release() -> None:
    model = config_of().build_on_features("", (768, 32, 1), 14)
    masked = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Linear)]
    assert [tuple(m.weight.shape) for m in masked] == [
        (200, 768, 3),
        (200, 768, 4),
        (200, 768, 5),
        (14, 600),
    ]
    assert sum(m.weight.numel() for m in masked) == 1_851_600
    states = torch.randn(2, 768, 32, 1)
    expected = [torch.relu(m(states.squeeze(3))).max(2).values for m in masked[:3]]
    torch.testing.assert_close(model(states), masked[3](torch.cat(expected, 1)))


def test_the_encoder_stays_as_it_is(encoder: str) -> None:
    model = config_of(encoder, filters=6, widths=[2, 3]).build("", SHAPE, 5)
    assert isinstance(model.encoder, nn.Sequential)
    states, cnn = model.encoder
    assert isinstance(states, text_encoder.TokenStates)
    network: Any = states.network
    before = {name: value.clone() for name, value in states.state_dict().items()}
    assert network.config.hidden_dropout_prob > 0
    model.train()
    assert model.training
    assert not any(module.training for module in network.modules())
    x = texts()
    first, second = model(x), model(x)
    assert torch.equal(first, second)
    first.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        "head.weight",
        "head.bias",
        *(f"encoder.1.convolutions.{i}.{key}" for i in range(2) for key in ("weight", "bias")),
    }
    assert all(p.grad is None for p in states.parameters())
    assert all(torch.equal(value, before[name]) for name, value in states.state_dict().items())
    # The encoder may run once for several networks on top of it.
    assert torch.equal(model.head(cnn(states(x))), second)


def test_padding_is_hidden_from_attention_alone(encoder: str) -> None:
    states = config_of(encoder).build_encoder("", SHAPE)
    x = texts()
    cut = states(x[1:, :, :7])
    whole = states(x[1:])
    torch.testing.assert_close(whole[:, :, :7], cut)
    assert whole[:, :, 7:].abs().amax(1).min() > 0


def test_begins_alike_on_ids_and_on_states(encoder: str) -> None:
    config = config_of(encoder, filters=6)
    built: list[Classifier] = []
    for build, shape in ((config.build, SHAPE), (config.build_on_features, STATES)):
        torch.manual_seed(3)
        built.append(build("", shape, 5))
    on_ids, on_states = built
    assert isinstance(on_ids.encoder, nn.Sequential)
    x = texts()
    assert torch.equal(on_ids(x), on_states(on_ids.encoder[0](x)))


def test_flattened_states_serve_mlp() -> None:
    model = registry.configure("model", Component(name="mlp", hidden=[4]))
    assert model.takes_features
    assert model.build_on_features("", STATES, 5)(torch.randn(2, *STATES)).shape == (2, 5)


def test_importances_need_no_way_through_the_encoder(encoder: str) -> None:
    model = config_of(encoder, filters=3, widths=[2, 4]).build("", SHAPE, 3).eval()
    found = squared_gradients(model, texts(), lambda out: out.logsumexp(1))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected = {name: torch.zeros_like(p) for name, p in trained.items()}
    for row in texts():
        loss = model(row.unsqueeze(0)).logsumexp(1).sum()
        gradients = torch.autograd.grad(loss, list(trained.values()))
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += gradient.square()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_key_is_that_of_the_content(encoder: str, tmp_path: Path) -> None:
    copy = shutil.copytree(encoder, tmp_path / "copy")
    other = save_encoder(tmp_path / "other", seed=1)
    keys = [config_of(str(path)).encoder_key("") for path in (encoder, copy, other)]
    assert keys[0] == keys[1] != keys[2]
    assert config_of(encoder, filters=7).encoder_key("") == keys[0]
    assert config_of().encoder_key("") is None
    described = config_of(encoder).describe_encoder("")
    assert described is not None
    assert described["name"] == "transformers/bert"


def test_names_on_the_hub_are_fetched(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append(name)
        if name != "lab/small-bert":
            raise OSError("no such repository")
        assert options["allow_patterns"] == list(pretrained.NETWORK)
        return encoder

    pretrained._fetch.cache_clear()
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert config_of("lab/small-bert").encoder_key("") == config_of(encoder).encoder_key("")
    assert asked == ["lab/small-bert"]
    with pytest.raises(BadData, match=r"got 'lab/nothing'.*failed: no such repository"):
        config_of("lab/nothing").check("")
    pretrained._fetch.cache_clear()


BAD_SHAPES: list[tuple[Any, str]] = [
    ((3, 32, 32), "texts, token ids as"),
    ((1, 28, 28), "texts, token ids as"),
    ((3, 4, 1), "L of 5 or more, the widest filter"),
    ((3, 65, 1), "tokens: got 65; accepted: at most 64"),
]


@pytest.mark.parametrize(("shape", "message"), BAD_SHAPES)
def test_other_examples_are_refused(shape: Any, message: str, encoder: str) -> None:
    with pytest.raises(BadSpec, match=message):
        config_of(encoder).build("", shape, 5)


@pytest.mark.parametrize("shape", [(512, 1, 1), (512, 4, 1), (512, 7, 7)])
def test_other_features_are_refused(shape: Any) -> None:
    with pytest.raises(BadSpec, match=r"token states \(D, L, 1\) with L of 5 or more"):
        config_of().build_on_features("", shape, 5)


def test_bad_knobs_are_refused(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="encoder=bert"):
        config_of().check("bert")
    with pytest.raises(BadSpec, match="different widths"):
        config_of(widths=[3, 3]).check("")
    for widths in ([], [0]):
        with pytest.raises(BadSpec, match="widths"):
            config_of(widths=widths)
    with pytest.raises(BadSpec, match="encoder: got None"):
        config_of().build("", SHAPE, 5)
    with pytest.raises(BadData, match=r"token id: got 64; accepted: ids below 64"):
        config_of(encoder).build("", SHAPE, 5)(texts(5, VOCABULARY))
    text_encoder._config.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadSpec, match=r"pip install 'clray\[text\]'"):
        config_of(encoder).check("")


def rewrite(folder: Path, **changes: Any) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, **changes}))


def test_bad_folders_are_refused(encoder: str, tmp_path: Path) -> None:
    import transformers

    def refuse(name: str, message: str, build: bool = False) -> None:
        config = config_of(str(tmp_path / name))
        with pytest.raises(BadInput, match=message):
            config.build("", SHAPE, 5) if build else config.check("")

    for name in ("bare", "pickled", "unknown", "seq2seq", "damaged", "deeper", "wider"):
        shutil.copytree(encoder, tmp_path / name)
    refuse("nothing", "a folder that exists, or a name on the Hugging Face hub")
    (tmp_path / "bare/config.json").unlink()
    refuse("bare", r"a folder with config\.json")
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    refuse("pickled", r"with pytorch_model\.bin alone.*loading others may execute code")
    (tmp_path / "bare/model.safetensors").unlink()
    shutil.copy(f"{encoder}/config.json", tmp_path / "bare")
    refuse("bare", "without weights")
    rewrite(tmp_path / "unknown", model_type="nonsense")
    refuse("unknown", r"a config\.json of a known network")
    transformers.T5Config().save_pretrained(tmp_path / "seq2seq")
    refuse("seq2seq", "a network from token ids to states")
    weights = tmp_path / "damaged/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refuse("damaged", "undamaged weights of one network", build=True)
    rewrite(tmp_path / "deeper", num_hidden_layers=3)
    refuse("deeper", r"without encoder\.layer\.2", build=True)
    rewrite(tmp_path / "wider", intermediate_size=40)
    refuse("wider", "tensors of other shapes|undamaged weights", build=True)
