"""The arithmetic behind ``moai remote plan``: counts, bytes, guide rows, flavors, concerns. Python 3.8 too."""

import json

import pytest
from moai_agent import sizing
from moai_agent.sizing import flavors, guide, memory, parameters
from moai_agent.sizing.memory import AUTOCAST, BF16, EAGER, FP32, SDPA, Step
from moai_agent.sizing.plan import Question

LLAMA3_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA3_70B = dict(LLAMA3_8B, hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, intermediate_size=28672)
LLAMA2_13B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 5120, "num_hidden_layers": 40,
    "num_attention_heads": 40, "intermediate_size": 13824,
}  # fmt: skip
MISTRAL_7B = dict(LLAMA3_8B, model_type="mistral", vocab_size=32000)
QWEN_7B = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008,
}  # fmt: skip
BAICHUAN2_13B = {
    "model_type": "baichuan", "vocab_size": 125696, "hidden_size": 5120, "num_hidden_layers": 40,
    "num_attention_heads": 40, "intermediate_size": 13696,
}  # fmt: skip
CEREBRAS_13B = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 5120, "n_layer": 40, "n_head": 40, "n_positions": 2048, "n_inner": 20480}
GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
GEMMA_2B = {
    "model_type": "gemma", "vocab_size": 256000, "hidden_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 1, "intermediate_size": 16384, "head_dim": 256,
}  # fmt: skip
QWEN2_HALF_B = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864, "tie_word_embeddings": True,
}  # fmt: skip
MOAI = {"provider": "moreh-smi", "flavor": "4xLarge.2048GB", "device_bytes": flavors.memory_bytes("4xLarge.2048GB")}


def shape_of(config):
    shape = sizing.read_shape(config)
    assert shape is not None
    return shape


def figures(needs):
    return {figure.name: figure for figure in needs.figures}


# -- parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (LLAMA3_8B, 8030261248), (LLAMA3_70B, 70553706496), (LLAMA2_13B, 13015864320), (MISTRAL_7B, 7241732096),
        (QWEN_7B, 7721324544), (GPT2, 124439808), (GEMMA_2B, 2506172416), (QWEN2_HALF_B, 494032768),
    ],
)  # fmt: skip
def test_published_counts_are_reproduced(config, published):
    assert sizing.count(shape_of(config)).total == published


def test_a_count_by_part_adds_up_and_a_tied_head_is_counted_once():
    counts = sizing.count(shape_of(LLAMA3_8B))
    assert counts.embeddings == counts.head == 128256 * 4096
    assert counts.attention == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert counts.mlp == 32 * 3 * 4096 * 14336 and counts.norms == 65 * 4096 and counts.biases == 0
    tied = sizing.count(shape_of(dict(LLAMA3_8B, tie_word_embeddings=True)))
    assert tied.head == 0 and tied.total == counts.total - counts.head


@pytest.mark.parametrize(
    "config",
    [
        {}, {"model_type": "mamba", "hidden_size": 4}, {"model_type": ["llama"]}, {"model_type": "llama"}, [], None,
        dict(LLAMA3_8B, hidden_size="4096"), dict(LLAMA3_8B, num_attention_heads=0), dict(LLAMA3_8B, vocab_size=True),
        dict(LLAMA3_8B, num_key_value_heads=7), dict(LLAMA3_8B, hidden_size=4097), dict(LLAMA3_8B, intermediate_size=1 << 60),
        dict(GPT2, n_head=7), dict(GPT2, add_cross_attention=True), {"model_type": "gpt2"},
    ],
)  # fmt: skip
def test_a_config_that_is_unknown_or_does_not_add_up_is_not_guessed(config):
    assert sizing.read_shape(config) is None


def test_an_adapter_counts_the_matrices_it_is_put_on():
    shape = shape_of(LLAMA3_8B)
    assert parameters.lora(shape, 8) == 32 * 8 * ((4096 + 4096) + (4096 + 1024))
    assert parameters.lora(shape, 4, ("down_proj",)) == 32 * 4 * (14336 + 4096)
    assert parameters.lora(shape, 8, ("lm_head",)) is None
    assert parameters.lora(shape_of(GPT2), 8) == 12 * 8 * (768 + 3 * 768)


# -- bytes ---------------------------------------------------------------------------------------------


def test_bytes_follow_the_recipe():
    shape = shape_of(LLAMA3_8B)
    counts = sizing.count(shape)
    full = memory.measure(shape, counts, Step("full", FP32, SDPA, 1, 1024), counts.total)
    assert (full.weights, full.gradients, full.optimizer, full.copies) == (
        4 * counts.total, 4 * counts.total, 8 * counts.total, 0,
    )  # fmt: skip
    trained = parameters.lora(shape, 8)
    lora = memory.measure(shape, counts, Step("lora", BF16, SDPA, 1, 1024), trained)
    assert lora.weights == 2 * counts.total + 4 * trained and lora.optimizer == 8 * trained and lora.copies == 0
    mixed = memory.measure(shape, counts, Step("full", AUTOCAST, SDPA, 1, 1024), counts.total)
    assert mixed.copies == 2 * counts.matrices and mixed.activations < full.activations


def test_activations_grow_with_tokens_and_checkpointing_saves_most_of_them():
    shape = shape_of(LLAMA3_8B)
    counts = sizing.count(shape)
    step = Step("full", AUTOCAST, SDPA, 2, 1024)
    small = memory.measure(shape, counts, step, counts.total)
    large = memory.measure(shape, counts, step._replace(rows=4), counts.total)
    assert large.activations == 2 * small.activations and large.checkpointed == 2 * small.checkpointed
    assert small.checkpointed < small.activations / 3
    eager = memory.measure(shape, counts, step._replace(attention=EAGER), counts.total)
    repeated, scores = 2 * 2 * (4096 - 1024), 32 * 1024 * 6
    assert eager.activations - small.activations == 2 * 1024 * (32 * (repeated + scores) + 4 * 1024)
    assert str(memory.layer_bytes(shape, step)) in memory.formula(shape, step, False)


# -- flavors and the guide -----------------------------------------------------------------------------


def test_a_flavor_is_known_by_any_of_its_names():
    for name in ("4xLarge.2048GB", "4xlarge", "4xlarge.2048", "flavor-default-32"):
        assert flavors.devices(name) == 32 and flavors.memory_bytes(name) == 2096640 << 20
    assert flavors.devices("1.5xLarge.768GB") == 12 and flavors.devices("xlarge") == 8
    assert flavors.devices("micro") is None and flavors.memory_bytes("") is None
    assert flavors.smallest(1) == "Small.64GB" and flavors.smallest(1 << 60) is None
    assert flavors.smallest((65520 << 20) + 1) == "Medium.128GB"


def test_every_model_of_the_guide_is_recognised_and_others_are_not():
    for config, name in (
        (LLAMA3_8B, "Llama3 8B"), (LLAMA3_70B, "Llama3 70B"), (LLAMA2_13B, "Llama2 13B"), (MISTRAL_7B, "Mistral 7B"),
        (QWEN_7B, "Qwen1.5 7B"), (BAICHUAN2_13B, "Baichuan2 13B"), (CEREBRAS_13B, "Cerebras GPT 13B"),
    ):  # fmt: skip
        shape = shape_of(config)
        assert guide.known_as(shape, sizing.count(shape).total) == name
        assert guide.rows_of(name, "full", 1024) and not guide.rows_of(name, "lora", 1024)
    for config in (GPT2, GEMMA_2B, dict(LLAMA3_8B, vocab_size=32000), dict(LLAMA3_8B, num_hidden_layers=16)):
        shape = shape_of(config)
        assert guide.known_as(shape, sizing.count(shape).total) is None


@pytest.mark.parametrize("row", guide.ROWS, ids=lambda r: "%s %s" % (r.model, r.flavor))
def test_a_row_fits_its_flavor_and_is_reproduced(row):
    assert row.vram_mib <= flavors.devices(row.flavor) * flavors.MIB_PER_DEVICE
    assert guide.pick(guide.rows_of(row.model, "full", row.context), row.flavor, row.batch) == row
    assert guide.hours(row, row.rows, 1) == pytest.approx(row.minutes / 60)


@pytest.mark.parametrize("config", [LLAMA3_8B, LLAMA3_70B, LLAMA2_13B, MISTRAL_7B, QWEN_7B, BAICHUAN2_13B])
def test_the_arithmetic_never_asks_for_more_state_than_the_guide_used(config):
    shape = shape_of(config)
    counts = sizing.count(shape)
    used = memory.measure(shape, counts, Step("full", AUTOCAST, EAGER, 1, 1024), counts.total)
    for row in guide.rows_of(guide.known_as(shape, counts.total), "full", 1024):
        assert used.total(True) < row.vram_mib << 20


def test_hours_come_from_the_row_of_the_present_flavor_scaled_by_rows():
    asked = Question(shape_of(LLAMA3_8B), rows=287113 // 2, **MOAI)
    needs = sizing.answer(asked)
    found = figures(needs)
    assert needs.flavor == "4xLarge.2048GB" and needs.batch == 256 and not needs.concerns
    assert found["hours"].evidence == found["flavor"].evidence == found["batch"].evidence == "guide"
    assert found["hours"].value == pytest.approx(140 / 60 / 2, rel=1e-4)
    two = figures(sizing.answer(asked._replace(epochs=2.0)))
    assert two["hours"].value == pytest.approx(2 * found["hours"].value)
    steps = figures(sizing.answer(asked._replace(steps=10)))
    assert steps["hours"].value == pytest.approx(140 / 60 * 2560 / 287113)


def test_the_tutorial_s_own_run_takes_a_day_on_its_flavor():
    needs = sizing.answer(Question(shape_of(LLAMA3_70B), rows=287113, **MOAI))
    assert needs.flavor == "8xLarge.4096GB" and needs.batch == 512
    assert figures(needs)["hours"].value == pytest.approx(24)
    [concern] = needs.concerns
    assert concern.code == "FLAVOR_TOO_SMALL" and "8xLarge.4096GB" in concern.text and "3516969 MiB" in concern.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"method": "lora"}, "full fine-tuning"), ({"tokens": 2048}, "2048 tokens"), ({"batch": 100}, "batch 100"),
        ({"rows": None}, "--rows"), ({"shape": "gemma"}, "no model of this family"),
    ],
)  # fmt: skip
def test_hours_are_never_invented(change, why):
    if change.get("shape"):
        change = {"shape": shape_of(GEMMA_2B)}
    asked = Question(shape_of(LLAMA3_8B), rows=1000, **MOAI)._replace(**change)
    hours = figures(sizing.answer(asked))["hours"]
    assert (hours.value, hours.evidence) == (None, "no data") and why in hours.text


def test_without_a_row_the_flavor_follows_from_the_bytes():
    asked = Question(shape_of(GEMMA_2B), **MOAI)
    needs = sizing.answer(asked)
    found = figures(needs)
    assert found["flavor"].evidence == found["batch"].evidence == "arithmetic" and not needs.concerns
    assert found["accelerator"].value <= 0.8 * flavors.memory_bytes(needs.flavor)
    small = sizing.answer(asked._replace(flavor="Small.64GB", device_bytes=flavors.memory_bytes("Small.64GB"), batch=64))
    assert [concern.code for concern in small.concerns] == ["FLAVOR_TOO_SMALL"]
    assert flavors.devices(small.flavor) > 1


# -- disk, host and what is unknown --------------------------------------------------------------------


def test_disk_is_the_sum_of_its_parts_and_a_full_disk_is_a_concern():
    asked = Question(
        shape_of(LLAMA3_70B), stored_bytes=141107412992, download_bytes=141107412992, rows=287113, checkpoints=3,
        free_bytes=430 * 10**9, host_bytes=256 << 30, **dict(MOAI, flavor="8xLarge.4096GB", device_bytes=4193280 << 20),
    )  # fmt: skip
    needs = sizing.answer(asked)
    found = figures(needs)
    parts = ("download", "dataset", "output", "checkpoints")
    assert found["disk"].value == sum(found[name].value for name in parts)
    assert found["output"].value == 4 * 70553706496 and found["checkpoints"].value == 3 * 12 * 70553706496
    assert [concern.code for concern in needs.concerns] == ["DISK_TOO_SMALL", "HOST_MEMORY"]
    without = sizing.answer(asked._replace(checkpoints=0, host_bytes=512 << 30))
    assert without.concerns == [] and figures(without)["disk"].value < 430e9
    adapter = figures(sizing.answer(asked._replace(method="lora")))
    assert adapter["output"].value < 1e9 and adapter["trained"].value == parameters.lora(asked.shape, 8)


def test_an_unknown_layout_is_sized_by_its_index_and_says_so():
    needs = sizing.answer(Question(None, stored_bytes=28_000_000, stored_item=2, index_bytes=27_000_000, download_bytes=28_000_000, **MOAI))
    found = figures(needs)
    assert found["parameters"].value == 13_500_000 and "index" in found["parameters"].text
    assert found["optimizer"].value == 8 * 13_500_000 and found["activations"].evidence == "no data"
    assert found["hours"].evidence == found["flavor"].evidence == "no data" and needs.flavor == ""
    files = figures(sizing.answer(Question(None, stored_bytes=28_000_000, stored_item=2, **MOAI)))
    assert files["parameters"].value == 14_000_000 and "weight files" in files["parameters"].text


def test_nothing_known_is_no_data_everywhere():
    needs = sizing.answer(Question(None))
    assert {figure.evidence for figure in needs.figures} == {"no data"} and {f.value for f in needs.figures} == {None}


@pytest.mark.parametrize("shape", [None, "llama", "gpt2"])
@pytest.mark.parametrize("provider", ["", "moreh-smi", "ap-smi", "nvml", "cpu"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_answer_has_the_same_figures_in_the_same_order(shape, provider, method):
    found = shape_of(LLAMA3_8B if shape == "llama" else GPT2) if shape else None
    needs = sizing.answer(Question(found, provider=provider, method=method, device_bytes=80 << 30))
    assert [figure.name for figure in needs.figures] == [
        "parameters", "trained", "weights", "gradients", "optimizer", "activations", "activations_checkpointed",
        "accelerator", "host_memory", "download", "dataset", "output", "checkpoints", "disk", "flavor", "batch", "hours",
    ]  # fmt: skip
    for figure in needs.figures:
        assert (figure.value is None) == (figure.evidence == "no data") and figure.text, figure
        assert figure.evidence in ("guide", "arithmetic", "no data", "given")
    json.dumps([figure._asdict() for figure in needs.figures], allow_nan=False)
