"""The model card: what it says, and whose card stays."""

import json

from moai_worker import modelcard

FACTS = {
    "kind": "adapter", "model": "org/base", "model_revision": "main", "model_commit": "a" * 40,
    "dataset": "org/news:3.0.0", "template": "summarize", "command": "moai remote train --model org/base", "moai": "0.1.0",
    "summary": {
        "result": {"method": "lora", "steps": 8, "total_steps": 40, "stopped_early": True, "first_loss": 2.0, "final_loss": 1.5},
        "settings": {"batch_size": 8, "trust_remote_code": True, "output": "/home/mina/x", "extra": {"weight_decay": 0.1}},
        "best": {"step": 4, "loss": 1.25}, "eval_losses": [[4, 1.25], [8, 1.5]], "versions": {"torch": "2.0"},
        "dataset": {"rows": 1000, "digest": "sha256:0"},
    },
}  # fmt: skip


def test_a_card_says_what_it_was_made_of_and_how_to_load_it():
    card = modelcard.text(FACTS)
    head, _, body = card[4:].partition("---\n")
    assert head.splitlines() == [
        "library_name: peft", 'base_model: "org/base"', "base_model_relation: adapter", "datasets:", '- "org/news"',
        "tags:", "- moai", "- fine-tuned", "- lora", "pipeline_tag: text-generation",
    ]  # fmt: skip
    for text in (
        "a" * 40, "8 of 40, ended early", "2.0000 at first, 1.5000 at last", "1.2500 at step 4", "run (trust_remote_code)",
        "weight_decay", "sha256:0", "PeftModel.from_pretrained", "trust_remote_code=True", "moai remote train --model org/base",
    ):  # fmt: skip
        assert text in body, text
    assert "/home/mina" not in card, "a path of the container"
    full = modelcard.text(dict(FACTS, kind="model", model="/data/llama", dataset="/data/x.jsonl", summary={}))
    assert "base_model:" not in full and "datasets:" not in full and "library_name: transformers" in full


def test_a_card_counts_every_run_of_a_resumed_training():
    def rows(**more):
        card = modelcard.text(dict(FACTS, summary=dict(FACTS["summary"], **more)))
        return {row.split("|")[1].strip(): row.split("|")[2].strip() for row in card.splitlines() if row.startswith("| ")}

    run = {"job": "a", "start_step": 0, "step": 40, "seconds": 100.5}
    assert rows(seconds=100.5, runs=[run])["seconds"] == "100.5" and "runs" not in rows(seconds=100.5, runs=[run])
    two = rows(seconds=1161.0, runs=[run, dict(run, start_step=30, step=1200, seconds=1060.5)])
    assert (two["seconds"], two["runs"]) == ("1,161", "2: steps 1 to 40, 31 to 1,200")
    late = rows(seconds=7.5, runs=[dict(run, start_step=30)])
    assert late["seconds"] == "7.5, not counting what led to step 30"
    many = rows(seconds=1.0, runs=[dict(run, start_step=n, step=n + 1) for n in range(20)])
    assert many["runs"] == "20: steps 1 to 1, 2 to 2, 3 to 3, 4 to 4, ..., 17 to 17, 18 to 18, 19 to 19, 20 to 20"
    assert "runs" not in rows(seconds=3.0), "a summary of an older version"


def test_no_value_breaks_out_of_its_place():
    nasty = 'x"\n---\n# owned | `code` ```\n<script>'
    card = modelcard.text(dict(FACTS, model=nasty, name=nasty, template=nasty + "{a}", command=nasty))
    head = card[4:].partition("---\n")[0]
    assert all(line.partition(":")[0] in ("library_name", "datasets", "tags", "pipeline_tag") or line.startswith("- ") for line in head.splitlines())
    assert "\n# owned" not in card.partition("Template:")[0]
    assert "````\n" in card


def test_a_card_of_ones_own_stays_and_ours_is_renewed(tmp_path):
    folder = str(tmp_path)
    assert modelcard.foreign(folder) is None
    assert modelcard.write(folder, FACTS) and modelcard.foreign(folder) is None
    path = tmp_path / "README.md"
    path.write_text(path.read_text() + "\n", encoding="utf-8")
    mine = modelcard.foreign(folder)
    assert mine is not None, "a changed card is somebody's"
    path.write_text("a library overwrote it")
    assert modelcard.write(folder, FACTS, mine) is False
    assert path.read_bytes() == mine
    path.write_text("# my model\n")
    assert modelcard.foreign(folder) == b"# my model\n"


def test_the_commit_of_a_folder_of_the_cache():
    assert modelcard.commit_of("/hub/models--a--b/snapshots/" + "0" * 40 + "/") == "0" * 40
    assert modelcard.commit_of("/data/llama") == ""
    assert json.dumps(modelcard.commit_of("/hub/models--a--b/snapshots/main")) == '""'
