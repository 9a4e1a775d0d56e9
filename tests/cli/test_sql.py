"""`storage sql`: questions from the command line, a file, a pipe or a terminal, and their answers in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from storage.cli.result_formats import Format, write_result
from storage.cli.sql_shell import completions
from storage.errors import InvalidInput
from storage.reporting.query.result import QueryResult
from tests.cli.conftest import Shell
from tests.cli.standard_input import Piped
from tests.cli.terminal import typed

COSTS = "SELECT user_id, conversations, cost_usd FROM report_user ORDER BY user_id"


def test_a_table_for_people(example: Shell) -> None:
    lines = example.well("sql", COSTS).lines
    assert lines[0].split() == ["user_id", "conversations", "cost_usd"]
    assert [line.split()[:2] for line in lines[1:]] == [["alice", "3"], ["bob", "3"], ["local", "6"]]
    assert lines[1].endswith(" 5.4761"), "not 5.476100000000001"


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "markdown"])
def test_formats_for_programs(example: Shell, name: str) -> None:
    text = example.well("sql", COSTS, "--format", name).output
    match name:
        case "json":
            rows = json.loads(text)
        case "jsonl":
            rows = [json.loads(line) for line in text.splitlines()]
        case "csv":
            rows = list(csv.DictReader(io.StringIO(text)))
        case _:
            header, rule, *lines = (line.strip("| ").split(" | ") for line in text.splitlines())
            assert set(rule) == {"---"}
            rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["user_id"] for row in rows] == ["alice", "bob", "local"]
    assert [int(row["conversations"]) for row in rows] == [3, 3, 6]
    assert sum(float(row["cost_usd"]) for row in rows) == pytest.approx(11.6316)


def test_parquet_keeps_the_types(example: Shell, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (of the extra `reporting`) is not installed")
    example.well("sql", COSTS, "-o", tmp_path / "costs.parquet")
    table = parquet.read_table(tmp_path / "costs.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "int64", "double"]
    assert table.column("user_id").to_pylist() == ["alice", "bob", "local"]
    assert "-o FILE" in example.badly("sql", COSTS, "--format", "parquet")


def test_a_file_is_written_whole_or_not_at_all(example: Shell, tmp_path: Path) -> None:
    target = tmp_path / "costs.csv"
    target.write_text("before")
    assert "nothing" in example.badly("sql", "SELECT nothing FROM report_user", "-o", target)
    assert target.read_text() == "before"
    example.well("sql", COSTS, "-o", target)
    assert target.read_bytes().startswith(b"user_id,conversations,cost_usd\r\nalice,3,")
    assert [path.name for path in tmp_path.iterdir()] == ["costs.csv"]
    assert "No such file" in example.badly("sql", COSTS, "-o", tmp_path / "missing" / "costs.csv")


def test_parameters_are_numbers_or_texts(example: Shell) -> None:
    def number(condition: str, *pairs: str) -> int:
        words = [word for pair in pairs for word in ("-p", pair)]
        sql = f"SELECT count(*) AS n FROM report_conversation WHERE {condition}"
        found: int = example.well("sql", sql, *words, "--format", "json").json[0]["n"]
        return found

    assert number("user_id = :user", "user=alice") == 3
    assert number("user_id = :user OR cost_usd > :cost", "user='alice'", "cost=1e9") == 3
    assert number("total_tokens > :least", "least=0") == number("total_tokens > 0")
    assert number("title = :title", "title=' OR 1=1 --") == 0
    assert "NAME=VALUE" in example.badly("sql", "SELECT :a", "-p", "a")
    assert "no value was given" in example.badly("sql", "SELECT :a")


def test_a_long_question_comes_from_a_file_or_a_pipe(example: Shell, tmp_path: Path) -> None:
    file = tmp_path / "question.sql"
    file.write_text(f"-- what each user cost\n{COSTS};\n")
    expected = example.well("sql", COSTS).output
    assert example.well("sql", "-f", file).output == expected
    piped = Piped(example.folder, example.database_url).into(f"{COSTS};\n".encode())
    assert piped.well("sql").output == expected
    assert piped.well("sql", "-").output == expected
    assert "cannot read" in example.badly("sql", "-f", tmp_path / "missing.sql")
    assert "not both" in example.badly("sql", COSTS, "-f", file)


def test_what_was_cut_is_told_apart_from_the_rows(example: Shell) -> None:
    cut = example("sql", COSTS, "--max-rows", "2", "--format", "jsonl")
    assert len(cut.lines) == 2
    assert "only the first 2 rows; --max-rows gives more" in cut.errors
    assert example.well("sql", COSTS, "--max-rows", "3").errors == ""


def test_one_user_sees_their_own(example: Shell) -> None:
    assert [row["user_id"] for row in example.well("sql", COSTS, "--user", "bob", "--format", "json").json] == ["bob"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM conversation", "refused|cannot modify|permission denied|read-only"),
        ("SELECT llm_api_key FROM settings", "reading settings is refused|permission denied for table settings"),
        ("SELECT * FROM report_convers", "did you mean report_conversation"),
        ("SELECT 1; SELECT 2", "one statement"),
    ],
)
def test_what_is_refused_exits_with_1_and_says_why(either_shell: Shell, sql: str, said: str) -> None:
    either_shell.well("init")
    complaint = either_shell.badly("sql", sql)
    assert any(text in complaint for text in said.split("|")), complaint


def test_a_question_that_takes_too_long_is_given_up(either_shell: Shell) -> None:
    either_shell.well("init")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert "longer than 0.3 s" in either_shell.badly("sql", endless, "--timeout", "0.3")


def test_the_views_are_listed_without_a_database(shell: Shell) -> None:
    text = shell.well("sql", "--views").output
    assert "report_usage_daily: What the conversations cost" in text
    assert "US dollars" in text


def test_setting_up_says_how_it_is(either_shell: Shell) -> None:
    either_shell.well("init")
    said = either_shell("sql", "--setup").errors
    assert said == "SQLite needs no setting up\n" or "questions can be asked" in said


def test_explaining_runs_nothing(either_shell: Shell) -> None:
    either_shell.well("init")
    assert "conversation" in either_shell.well("sql", "--explain", "SELECT count(*) FROM report_conversation").output


def test_statements_are_typed_one_after_the_other(example: Shell) -> None:
    answers = ["SELECT count(*) AS n\r", "FROM report_user;\r", "SELECT nothing FROM report_user;\r", "\\q\r"]
    outcome = typed(example, "sql", answers=answers, after=b"> ", TERM="dumb")
    text = outcome.output
    assert outcome.code == 0
    assert "1 row, " in text
    assert "nothing" in text


def test_completion_knows_views_and_columns() -> None:
    assert {"report_user", "cost_usd", "SELECT"} <= set(completions())


# ---- values that are awkward


def result(*values: Any) -> QueryResult:
    return QueryResult(tuple(f"c{index}" for index in range(len(values))), [values], truncated=False, seconds=0.0)


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ("csv", 'c0,c1,c2,c3\r\n,"a ""b"", c\nd",true,"{""k"": [1]}"\r\n'),
        ("jsonl", '{"c0": null, "c1": "a \\"b\\", c\\nd", "c2": true, "c3": {"k": [1]}}\n'),
        ("markdown", '| c0 | c1 | c2 | c3 |\n| --- | --- | --- | --- |\n|  | a "b", c d | true | {"k": [1]} |\n'),
    ],
)
def test_nulls_quotes_lines_and_json_survive(tmp_path: Path, format_: Format, expected: str) -> None:
    write_result(result(None, 'a "b", c\nd', True, {"k": [1]}), format_, tmp_path / "out")
    assert (tmp_path / "out").read_bytes().decode() == expected


def test_markdown_holds_no_markup_of_the_values(tmp_path: Path) -> None:
    write_result(result("<script>|x|</script>"), "markdown", tmp_path / "out")
    assert "&lt;script>\\|x\\|&lt;/script>" in (tmp_path / "out").read_text()


def test_two_columns_of_one_name_are_told_apart_first(tmp_path: Path) -> None:
    twice = QueryResult(("a", "a"), [(1, 2)], truncated=False, seconds=0.0)
    with pytest.raises(InvalidInput, match="two columns are named 'a'"):
        write_result(twice, "json", tmp_path / "out")
    write_result(twice, "csv", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a,a\n1,2\n"


def test_a_title_cannot_steer_the_terminal(example: Shell) -> None:
    escape = "char(27)" if example.database_url is None else "chr(27)"
    outcome = example.well("sql", f"SELECT 'a' || {escape} || '[2J' AS title")
    assert "\x1b" not in outcome.output
