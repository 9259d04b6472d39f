"""How to run the published files: commands for other programs, checked against their documentation."""

from __future__ import annotations

from burnish.hub import published_name

from .publication import Publication

QUESTION = "Who are you?"


def usage(s: Publication) -> str:
    """Return the card's commands for the published files."""
    made = [*_gguf(s), *_merged(s), *_adapter(s)]
    ollama = " (Ollama needs its own key in the Hub's settings)" if s.ggufs and s.train.chat_template_sha256 else ""
    private = f"While the repository is private, all of them need HF_TOKEN{ollama}."
    return "\n".join(["## How to run it", "", private, "", *made])


def _gguf(s: Publication) -> list[str]:
    if not s.ggufs:
        return []
    chosen = next((a for a in s.ggufs if a.path == s.default), min(s.ggufs, key=lambda a: a.bytes))
    name, default = published_name(chosen.path), chosen.path == s.default
    option = "" if default else f' SET="--artifact {chosen.quantization}{_unproven(chosen.verdict)}"'
    chat = s.train.chat_template_sha256 is not None
    lines = [
        "Burnish, from a checkout: an OpenAI-compatible server that checks each file's sha256 against its record and"
        " renders prompts as in training:",
        "",
        f"    make serve MODEL=hf://{s.repo}{option}",
        "",
        f"llama.cpp ({'its server answers on port 8080 and' if chat else 'a server on port 8080 with /completion; it'}"
        " stops at the recorded tokens):",
        "",
        f"    llama-server -hf {s.repo} --hf-file {name}" + (" --jinja" if chat else ""),
        "",
    ]
    if chat:
        lines += [
            "Ollama (the file `params` here has the stop tokens):",
            "",
            f"    ollama run hf.co/{s.repo}:{chosen.quantization}",
            "",
        ]
    return lines


def _unproven(verdict: str) -> str:
    return " --allow_unproven true" if verdict == "fail" else ""


def _merged(s: Publication) -> list[str]:
    if s.merged is None:
        return []
    chat = s.train.chat_template_sha256 is not None
    prompt = f'[{{"role": "user", "content": "{QUESTION}"}}]' if chat else '"Once upon a time"'
    answer = '["generated_text"][-1]["content"]' if chat else '["generated_text"]'
    return [
        "transformers:",
        "",
        "    from transformers import pipeline",
        f'    model = pipeline("text-generation", model="{s.repo}", dtype="auto")',
        f"    print(model({prompt}, max_new_tokens=128)[0]{answer})",
        "",
        "vLLM (an OpenAI-compatible server on port 8000):",
        "",
        f"    vllm serve {s.repo}",
        "",
    ]


def _adapter(s: Publication) -> list[str]:
    """Return the commands for the adapter if others can load its base by name."""
    if not s.adapter or s.base_on_hub is None:
        return []
    return [
        "The adapter with PEFT, on the base model:",
        "",
        "    from peft import PeftModel",
        "    from transformers import AutoModelForCausalLM",
        f'    base = AutoModelForCausalLM.from_pretrained("{s.base_on_hub}", revision="{s.train.base.revision}")',
        f'    model = PeftModel.from_pretrained(base, "{s.repo}", subfolder="adapter")',
        "",
    ]
