"""The arithmetic of ``moai_agent.sizing`` against real models: counts exactly, memory by measured peaks.

A child with the train environment's Python builds models from their configs (random weights) and trains
them for a step on the CPU under torch's memory profiler, which sees every allocation: what it reports is
the same on every run. Skipped where there is no train environment.
"""

import json
import subprocess

import pytest
from fakes import tinymodel
from moai_agent import sizing
from moai_agent.sizing import memory, parameters
from moai_agent.sizing.memory import AUTOCAST, BF16, EAGER, FP32, SDPA, Step

#: A prediction of activations is within this factor of the measured bytes.
FACTOR = 1.08
#: The whole step's peak is an upper bound, and not a wild one.
LOOSE = 1.6

_BASE = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "intermediate_size": 152}
CONFIGS = {
    "llama": dict(_BASE, num_key_value_heads=2),
    "llama-biases": dict(_BASE, num_key_value_heads=4, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-wide-heads": dict(_BASE, num_key_value_heads=8, head_dim=24),
    "mistral": dict(_BASE, num_key_value_heads=2),
    "qwen2": dict(_BASE, num_key_value_heads=2),
    "qwen2-tied": dict(_BASE, num_key_value_heads=8, tie_word_embeddings=True),
    "qwen3": dict(_BASE, num_key_value_heads=2, head_dim=16),
    "gemma": dict(_BASE, num_key_value_heads=1, head_dim=16),
    "gemma2": dict(_BASE, num_key_value_heads=2, head_dim=16),
    "phi3": dict(_BASE, num_key_value_heads=2, pad_token_id=0),
    "gpt2": {"vocab_size": 320, "n_embd": 64, "n_layer": 3, "n_head": 8, "n_positions": 96},
    "gpt2-inner": {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 96, "n_inner": 100},
}
MEASURED = {
    "gated": {"model_type": "llama", "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
              "num_key_value_heads": 8, "intermediate_size": 688, "max_position_embeddings": 256},
    "grouped": {"model_type": "llama", "vocab_size": 2048, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 12,
                "num_key_value_heads": 4, "intermediate_size": 768, "max_position_embeddings": 256},
}  # fmt: skip

_CHILD = r"""
import gc, json, os, sys, tempfile
import peft, torch, transformers
from torch.profiler import profile, ProfilerActivity
torch.set_num_threads(1)
torch.manual_seed(1)
wanted = json.load(sys.stdin)

def build(config, **more):
    config = dict(config)
    kind = config.pop("model_type")
    made = transformers.AutoConfig.for_model(kind, **config)
    return transformers.AutoModelForCausalLM.from_config(made, **more)

def counted(config):
    model = build(config)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        with open(os.path.join(folder, "config.json")) as file:
            written = json.load(file)
    full = json.loads(json.dumps(model.config.to_dict(), default=str))
    total = sum(p.numel() for p in model.parameters())
    target = {"gpt2": ["c_attn"], "phi3": ["qkv_proj"]}.get(config["model_type"], ["q_proj", "v_proj"])
    fused = config["model_type"] == "gpt2"
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=target, fan_in_fan_out=fused, task_type="CAUSAL_LM"))
    lora = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return {"total": total, "lora": lora, "config": written, "full": full}

def held(prof):
    now = peak = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return now, peak

def measured(case):
    lora = case["method"] == "lora"
    model = build(case["config"], attn_implementation=case["attention"])
    if case["precision"] == "bf16":
        model = model.to(torch.bfloat16)
    if lora:
        if case["checkpointing"]:
            model.enable_input_require_grads()
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.config.use_cache = False
    model.train()
    if case["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(0, case["config"]["vocab_size"], (case["rows"], case["tokens"]))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    mixed = case["precision"] != "fp32"
    def forward():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            return model(**batch)
    forward().loss.backward()
    model.zero_grad(set_to_none=True)
    gc.collect()
    gc.disable()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        out = forward()
    kept, _ = held(prof)
    del out
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        out = forward()
        out.loss.backward()
    _, peak = held(prof)
    gc.enable()
    return {"kept": kept, "peak": peak}

print("ANSWER" + json.dumps({"counts": {k: counted(c) for k, c in wanted["counts"].items()},
                             "measured": [measured(c) for c in wanted["measured"]]}))
"""

CASES = [
    dict(name=name, config=config, method=method, precision=precision, attention=attention, checkpointing=checkpointing,
         rows=2, tokens=128)
    for name, config in MEASURED.items()
    for attention, method, precision in (
        (SDPA, "full", FP32), (SDPA, "full", AUTOCAST), (SDPA, "lora", FP32), (SDPA, "lora", BF16),
        (EAGER, "full", FP32), (EAGER, "full", AUTOCAST), (EAGER, "lora", AUTOCAST),
    )
    for checkpointing in (False, True)
]  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("SKIPPED LOUDLY: no train environment (make train-env)")
    counts = {name: dict(config, model_type=name.split("-")[0]) for name, config in CONFIGS.items()}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", _CHILD], input=json.dumps({"counts": counts, "measured": CASES}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("ANSWER", 1)[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_exactly(answers, name):
    found = answers["counts"][name]
    for config in (found["config"], found["full"]):
        shape = sizing.read_shape(config)
        assert shape is not None, config
        assert sizing.count(shape).total == found["total"]
        assert parameters.lora(shape, 4) == found["lora"]


def predicted(case):
    shape = sizing.read_shape(case["config"])
    counts = sizing.count(shape)
    trained = counts.total if case["method"] == "full" else parameters.lora(shape, 4)
    step = Step(case["method"], case["precision"], case["attention"], case["rows"], case["tokens"])
    return shape, memory.measure(shape, counts, step, trained)


@pytest.mark.parametrize("at", range(len(CASES)), ids=["{name}-{attention}-{method}-{precision}-{checkpointing}".format(**c) for c in CASES])
def test_activations_are_within_the_factor_of_what_was_measured(answers, at):
    case, found = CASES[at], answers["measured"][at]
    shape, used = predicted(case)
    # The gradients of the logits are counted with the activations and come only with the backward pass.
    tokens = case["rows"] * case["tokens"]
    later = tokens * shape.vocab * 8
    if case["checkpointing"]:
        step = Step(case["method"], case["precision"], case["attention"], case["rows"], case["tokens"])
        later += tokens * memory.layer_bytes(shape, step)
        said = used.checkpointed - later
        # The head is not inside a checkpoint: its 16-bit copy stays, one of a layer does not.
        said += 2 * shape.vocab * shape.hidden if used.copies else 0
    else:
        said = used.activations + used.copies - later
    assert found["kept"] / FACTOR <= said <= found["kept"] * FACTOR, (said, found)
    whole = used.total(case["checkpointing"]) - used.weights - used.optimizer
    assert found["peak"] <= whole * FACTOR and whole <= found["peak"] * LOOSE, (whole, found)
