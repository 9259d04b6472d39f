"""Settings: three sources in order of precedence; every error names its source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from burnish.config import ConfigError, Strict, add_arguments, load, parse_arguments


class Lora(Strict):
    r: int = Field(16, gt=0)
    lora_dropout: float = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class Settings(Strict):
    lora: Lora = Field(default_factory=Lora)
    name: str | None = None
    packing: bool = False
    amx: Literal["auto", "on", "off"] = "auto"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def faults(config: Path, text: str, environ: dict[str, str] | None = None, **overrides: str) -> list[str]:
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Settings, "train", config, overrides, environ or {})
    return [fault.replace(str(config), "c.yaml") for fault in caught.value.faults]


def test_command_line_overrides_environment_overrides_file(config: Path) -> None:
    config.write_text("lora: {r: 1, lora_dropout: 0.1}\nname: file\n")
    environ = {"BURNISH_TRAIN_LORA__R": "2", "BURNISH_TRAIN_NAME": "environment"}
    settings = load(Settings, "train", config, {"lora.r": "3"}, environ)
    assert (settings.lora.r, settings.name, settings.lora.lora_dropout) == (3, "environment", 0.1)


def test_errors_from_all_sources_are_reported_with_suggestions(config: Path) -> None:
    found = faults(config, "lora:\n  rank: 8\n  lora_droput: 0.1\n  r: abc\npackin: true\n", {"BURNISH_TRAIN_NAM": "x"})
    assert found == [
        "c.yaml:2: unknown key 'lora.rank'; did you mean 'lora.r'?",
        "c.yaml:3: unknown key 'lora.lora_droput'; did you mean 'lora.lora_dropout'?",
        "c.yaml:5: unknown key 'packin'; did you mean 'packing'?",
        "environment: unknown variable 'BURNISH_TRAIN_NAM'; did you mean 'BURNISH_TRAIN_NAME'?",
        "c.yaml:4: lora.r is 'abc': it should be a valid integer",
    ]


def test_key_in_the_wrong_section_suggests_the_correct_section(config: Path) -> None:
    assert faults(config, "r: 8\n") == ["c.yaml:1: unknown key 'r'; did you mean 'lora.r'?"]


def test_duplicate_key_is_an_error(config: Path) -> None:
    assert faults(config, "name: a\nname: b\n") == ["c.yaml:2: 'name' is given twice"]


@pytest.mark.parametrize("text", ["packing: 1", 'lora: {r: "8"}', "lora: {r: true}", "name: 3"])
def test_values_of_the_wrong_type_are_not_converted(config: Path, text: str) -> None:
    assert len(faults(config, text)) == 1


def test_variables_of_other_stages_are_ignored_and_unknown_ones_rejected(config: Path) -> None:
    config.write_text("")
    load(Settings, "train", config, {}, {"BURNISH_SERVE_PORT": "1", "BURNISH_CACHE": "/x", "OTHER": "y"})
    assert faults(config, "", {"BURNISH_TRIAN_NAME": "x"})[0].startswith("environment: unknown variable 'BURNISH_TRIAN")


def test_lists_are_parsed_from_comma_separated_strings(config: Path) -> None:
    settings = load(Settings, "train", None, {}, {"BURNISH_TRAIN_LORA__TARGET_MODULES": "q_proj, k_proj"})
    assert settings.lora.target_modules == ["q_proj", "k_proj"]
    for word in ("*", "@all", "[open"):  # characters with a meaning in YAML
        assert load(Settings, "train", None, {"lora.target_modules": word}, {}).lora.target_modules == [word]
    settings = load(Settings, "train", None, {"lora.target_modules": "all-linear"}, {})
    assert settings.lora.target_modules == "all-linear"


@pytest.mark.parametrize(("text", "value"), [("5e-4", 5e-4), ("1.5E-3", 1.5e-3), ("0.1", 0.1)])
def test_floats_accept_scientific_notation(config: Path, text: str, value: float) -> None:
    config.write_text(f"lora: {{lora_dropout: {text}}}")
    assert load(Settings, "train", config, {}, {}).lora.lora_dropout == value


def test_missing_or_invalid_yaml_file_is_a_one_line_error(config: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load(Settings, "train", config, {}, {})
    assert faults(config, "a: [1\nb: 2")[0].startswith("c.yaml:2: not valid YAML")


def test_dashes_equal_underscores_and_a_bare_flag_is_true() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Settings, "train")
    settings, _ = parse_arguments(parser, Settings, "train", ["--lora.lora-dropout=0.5", "--packing", "--lora.r", "3"])
    assert (settings.lora.lora_dropout, settings.packing, settings.lora.r) == (0.5, True, 3)


def test_all_unknown_options_are_reported_with_suggestions() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, Settings, "train")
    with pytest.raises(ConfigError) as caught:
        parse_arguments(parser, Settings, "train", ["--lora.rr", "3", "--pack", "true"])
    assert "did you mean '--lora.r'?" in caught.value.faults[0]
    assert "did you mean '--packing'?" in caught.value.faults[1]


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_yaml_1_1_booleans_stay_strings(config: Path, word: str) -> None:
    config.write_text(f"amx: {word}\n")
    assert load(Settings, "train", config, {}, {}).amx == word
    assert load(Settings, "train", None, {"amx": word}, {}).amx == word
    assert load(Settings, "train", None, {}, {"BURNISH_TRAIN_AMX": word}).amx == word
