"""The settings of data.sources, and runs with several sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.config import ConfigError
from burnish.config.loading import load
from burnish.data.files import DataError
from burnish.data.sources.dataset import open_dataset
from burnish.data.sources.section import SourceSection, spec
from train.data.sources import data_hashes, read_sources
from train.settings import DataSection, TrainSettings

CHAT = {"instruction": "q", "output": "a"}


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    faq = written(tmp_path / "faq.jsonl", *({"q": f"q{n}", "a": f"a{n}"} for n in range(40)))
    general = written(tmp_path / "general.jsonl", *({**CHAT, "output": f"{n}"} for n in range(60)))
    path = tmp_path / "mix.yaml"
    path.write_text(
        f"base: {{id: b}}\ndata:\n  columns: {{user: '{{{{ q }}}}', assistant: '{{{{ a }}}}'}}\n  sources:\n"
        f"    - {{path: {faq}, share: 0.8}}\n    - {{path: {general}, share: 0.2, format: alpaca}}\n"
    )
    return path


def settings(config: Path | None, **overrides: Any) -> TrainSettings:
    return load(TrainSettings, "train", config, overrides, {})


def test_sources_are_mixed_and_recorded_each_with_its_own_settings(config: Path, tmp_path: Path) -> None:
    data = settings(config).data
    assert data.path == f"{tmp_path}/faq.jsonl + {tmp_path}/general.jsonl"
    opened = read_sources(data, seed=1)
    rows, converter = list(opened.train.rows()), opened.train.converter(data)
    assert len(rows) == 50 and opened.train.format == "mixed" and opened.train.chats
    assert all(converter.add(row) for row in rows) and not converter.faults
    record = opened.train.dataset.record(opened.train.dataset.counted())
    assert [(one["rows"], one["used"], one["format"]) for one in record] == [(40, 40, "messages"), (60, 10, "alpaca")]
    assert rows[0].where == "faq.jsonl line 1, row 1" and rows[-1].file == "general.jsonl"
    assert data_hashes(data)["data_sha256"] == opened.data_sha256
    assert TrainSettings.model_validate(settings(config).model_dump()).data == data


def test_path_and_sources_are_mutually_exclusive(config: Path) -> None:
    with pytest.raises(ConfigError, match="path and sources: set one of them"):
        settings(config, **{"data.path": "x.jsonl"})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"share": 0.5, "rows": 3}, "share and rows: set one of them"),
        ({"columns": {"text": "{{ a"}}, "data.columns.text: line 1"),
        ({"where": "a ="}, "is not an expression over columns"),
        ({"format": "alpaca", "columns": {"text": "{{ a }}"}}, "leave out format"),
        ({"format": "alpaca", "transcript": "human-bot"}, "only texts are split"),
        ({"shrae": 1}, "Extra inputs"),
    ],
)
def test_malformed_source_is_a_one_line_error(source: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(None, **{"base.id": "b", "data.sources": json.dumps([{"path": "f.jsonl", **source}])})
    assert expected in str(caught.value) and "--data.sources: data.sources is" in str(caught.value)


def test_chats_and_texts_cannot_be_mixed(tmp_path: Path) -> None:
    chats, texts = written(tmp_path / "c.jsonl", CHAT), written(tmp_path / "t.jsonl", {"text": "x"})
    data = DataSection(path=f"{chats} + {texts}", sources=[SourceSection(path=chats), SourceSection(path=texts)])
    with pytest.raises(DataError, match="some are plain texts, some chats"):
        open_dataset(data.specs(), 1)


def test_missing_source_and_eval_file_are_reported_together(tmp_path: Path) -> None:
    data = DataSection(path="a.jsonl", sources=[SourceSection(path="a.jsonl")], eval_path="b.jsonl")
    with pytest.raises(
        DataError, match=r"(?s)data.sources a.jsonl: no such file.*data.eval_path b.jsonl: no such file"
    ):
        read_sources(data, 1)


def test_max_rows_selects_rows_by_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path / "f.jsonl", *({**CHAT, "output": f"{n}"} for n in range(50)))
    data = DataSection(path=path, max_rows=10)
    one, other = ([row.line for row in read_sources(data, seed).train.rows()] for seed in (1, 2))
    assert len(one) == len(other) == 10 and one != other and one == sorted(one)


def test_settings_of_a_source_override_those_of_data() -> None:
    data = DataSection(path="x", columns={"text": "{{ a }}"}, transcript="human-bot", where="a")
    own = spec("p", SourceSection(path="p", where="b", transcript="none"), "data.sources[0]", data)
    assert own.where and own.where.source == "b" and own.transcript == "none" and own.columns is not None
    assert spec("p", SourceSection(path="p", format="alpaca"), "data.sources[0]", data).columns is None


def test_columns_and_transcript_are_json_on_the_command_line() -> None:
    given = {"base.id": "b", "data.path": "x", "data.columns": '{"text": "{{ a }}, {{ b }}"}'}
    assert settings(None, **given).data.columns == {"text": "{{ a }}, {{ b }}"}
    turns = '[{"role": "user", "content": "{{ a }}"}, {"role": "assistant", "content": "{{ b }}"}]'
    assert len(settings(None, **{**given, "data.columns": turns}).data.columns or ()) == 2
    marks = {"user": "Customer:", "assistant": "Agent:"}
    assert settings(None, **{**given, "data.transcript": json.dumps(marks)}).data.transcript == marks
