"""The documents against the code: what exists is documented, what is documented exists, and every link leads somewhere.

docs/reference/settings.md and docs/reference/rules.md have tests of their own.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import fences
import pytest

from docs._ext import command_line, generated
from ixfast import meters
from ixfast.chips import UNDECIDED_REASONS
from ixfast.chips.reasons import REASONS
from ixfast.cli import main
from ixfast.cli.exit_codes import MEANINGS
from ixfast.config import settings, settings_loader
from ixfast.domain import decision
from ixfast.domain.model import Verdict
from ixfast.error_codes import INACTIVE, MANAGEMENT, STATUS
from ixfast.errors import ConfigurationError
from ixfast.store.db_errors import DbErrorKind

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = ROOT / "src" / "ixfast"
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *ROOT.glob("deploy/*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
    ]
)
API = (DOCS / "reference" / "scan-api.md").read_text()
OPERATING = (DOCS / "how-to" / "operate.md").read_text()

FOREIGN_OPTIONS = {"--globoff"}  # of curl
MEASUREMENTS = ("experiments", "performance")


def section(document: str, title: str) -> str:
    """The text under a heading, up to the next one of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}$", document, re.MULTILINE)
    assert found is not None, title
    rest = document[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def first_cells(text: str) -> list[str]:
    """Every `name` in the first cell of the rows of the tables in a text."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", row)[1])]


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section(API, "Errors"), re.MULTILINE)
    expected = {code: status for code, status in STATUS.items() if code not in MANAGEMENT}
    assert {code: int(status) for code, status in rows} == expected
    assert len(rows) == len(expected)


def test_every_counted_error_code_is_documented() -> None:
    listed = section((DOCS / "reference" / "metrics.md").read_text(), "Error codes").partition(":")[2].partition("(")[0]
    assert re.findall(r"`(\w+)`", listed) == list(meters.SCAN_ERRORS)


def test_every_verdict_is_documented() -> None:
    assert first_cells(section(API, "Verdicts")) == list(Verdict)


def engine_reasons() -> set[str]:
    """Reasons that the engine itself gives with a verdict."""
    tree = ast.parse((SOURCES / "pipeline" / "engine.py").read_text())
    given = {
        call.args[2].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("_refuse", "_reject")
        and isinstance(call.args[2], ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is not None:
            given.update(node.value.value for target in node.targets if getattr(target, "attr", "") == "reason")
    return {str(each) for each in given}


def test_every_reason_is_documented() -> None:
    known = (set(REASONS) - UNDECIDED_REASONS) | engine_reasons() | INACTIVE | {"not_found"}
    assert {"counter_used", "mac_mismatch", "not_replay_checked"} <= engine_reasons()
    assert sorted(first_cells(section(API, "Reasons"))) == sorted(known)


def texts_in(node: ast.AST) -> Iterator[str]:
    """Words among the constants that an expression may become; comparisons and calls have no values to document."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", node.value):
            yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts_in(node.body)
        yield from texts_in(node.orelse)
    elif isinstance(node, ast.Tuple | ast.Starred | ast.BoolOp):
        for child in ast.iter_child_nodes(node):
            yield from texts_in(child)


def unavailable_reasons() -> set[str]:
    """Every reason of an answer without a verdict: what any module passes as one, and the kinds of database errors."""
    found = {kind.value for kind in DbErrorKind} | UNDECIDED_REASONS
    found.update(reason for code, reason in decision.ERRORS.values() if code == "unavailable" and reason is not None)
    for file in [
        SOURCES / "process" / "worker.py",
        *(file for package in ("pipeline", "store", "http") for file in (SOURCES / package).rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in (
                    "fail",
                    "failed",
                    "_fail",
                    "_fail_undecided",
                    "_fail_all",
                    "_drop",
                    "_broken",
                    "_mark_stale",
                    "Failure",
                ):
                    for argument in node.args:
                        found.update(texts_in(argument))
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    names = {getattr(each, "id", getattr(each, "attr", "")) for each in ast.walk(target)}
                    if names & {"stale", "_no_session_reason", "reason"}:
                        found.update(texts_in(node.value))
            elif isinstance(node, ast.FunctionDef) and node.name == "_reason":
                for each in ast.walk(node):
                    if isinstance(each, ast.Return) and each.value is not None:
                        found.update(texts_in(each.value))
    return found - set(STATUS) - engine_reasons()


def test_every_reason_of_a_503_is_documented() -> None:
    known = unavailable_reasons()
    assert {"starting", "deadline", "database_unreachable", "key_unavailable", "row_held", "no_key", "stopped"} <= known
    assert sorted(first_cells(section(OPERATING, "What a 503 says"))) == sorted(known)


def test_every_metric_is_documented() -> None:
    text = (DOCS / "reference" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `((?:ixfast|process)_\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert rows == {meter.name: meter.kind for meter in meters.METERS} | {"ixfast_build_info": "gauge"}
    named = re.findall(r"\b(?:ixfast|process)_\w+", text)
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} == set(rows)


def commands(group: click.Command = main, path: str = "ixfast") -> Iterator[tuple[str, click.Command]]:
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, f"{path} {name}")
    else:
        yield path, group


COMMANDS = dict(commands())
SETTING_FLAGS = {"--config"} | {
    flag for each in settings.describe() for flag in ((each.flag, f"{each.flag}-file") if each.secret else (each.flag,))
}


def options(command: click.Command) -> set[str]:
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts) if option.startswith("--")}


def own_options(command: click.Command) -> set[str]:
    """Long options besides those of the settings, which docs/reference/settings.md has."""
    return options(command) - SETTING_FLAGS


def test_the_generated_page_has_every_command_and_option() -> None:
    """tests/acceptance/test_site.py finds them on the built page, too."""
    sections = re.split(r"^### `(ixfast [a-z -]+)`$", command_line.commands(), flags=re.MULTILINE)
    documented = {
        name: set(re.findall(r"(?<![\w-])--[a-z0-9-]+", " ".join(re.findall(r"^`(-[^`]+)`$", text, re.MULTILINE))))
        for name, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    assert documented == {name: own_options(command) for name, command in COMMANDS.items()}
    assert set(re.findall(r"^\| \[`(ixfast [^`]+)`\]", sections[0], re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", ["python-api", "command-line", "http-api"])
def test_a_page_says_where_the_text_is_that_only_the_site_has(name: str) -> None:
    page = DOCS / "reference" / f"{name}.md"
    text = page.read_text()
    assert re.search(r"^<!-- generated: [\w ]+ -->\n`make docs` fills .* Without it, ", text, re.MULTILINE)
    assert "`make docs`" not in generated.fill_in(text, page)


def test_every_error_code_has_a_section_with_its_status_and_a_remedy() -> None:
    text = (DOCS / "reference" / "error-codes.md").read_text()
    sections = re.findall(r"^### `(\w+)`\n\n\*\*(\d+)\.\*\* \S.*?\n\n\*\*What to do:\*\* \S", text, re.MULTILINE | re.DOTALL)
    assert {code: int(status) for code, status in sections} == STATUS
    assert len(sections) == len(STATUS) == len(re.findall(r"^### ", text, re.MULTILINE))


def test_every_exit_status_is_documented() -> None:
    (document,) = [text for each in DOCUMENTS if re.search("^##+ Exit codes$", text := each.read_text(), re.MULTILINE)]
    rows = re.findall(r"^\| (\d+) \| (.*?) \|$", section(document, "Exit codes").replace("`", ""), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == MEANINGS


def prose_and_code(document: Path) -> tuple[str, list[tuple[str, str]]]:
    """The text without its code blocks, and the blocks with their language; with what the site generates."""
    text = generated.fill_in(document.read_text(), document)
    blocks = [(fence.language, fence.text) for fence in fences.fences(text)]
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), blocks


def anchors(document: Path) -> set[str]:
    prose, _ = prose_and_code(document)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    prose, _ = prose_and_code(document)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_in_code_blocks_exist(document: Path) -> None:
    """Commands `ixfast` and `make` in blocks of the language `sh`, in typed lines of transcripts, and in the text."""
    prose, blocks = prose_and_code(document)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = [
        command
        for language, block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if language == "sh" or (language in fences.TRANSCRIPTS and line.startswith("$ "))
        for command in re.split(r" (?:\||&&|;) |\$\(|\)", line)
    ]
    for line in [*typed, *re.findall(r"`(ixfast [^`]+|make [^`]+)`", prose)]:
        words = re.sub(r"^(?:\$ )?(?:sudo )?(?:-u \w+ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?(?=ixfast |make )", "", line).split()
        if words[:1] == ["make"]:
            assert words[1] in targets or "=" in words[1], line
        elif words[:1] == ["ixfast"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]*", words[1]):
            name = next((" ".join(words[:count]) for count in (3, 2) if " ".join(words[:count]) in COMMANDS), None)
            group = " ".join(words[:2])
            assert name is not None or (len(words) == 2 and any(each.startswith(f"{group} ") for each in COMMANDS)), line
            if name is not None:
                given = set(re.findall(r"(?<=\s)(--[a-z0-9-]+)", line))
                assert given <= options(COMMANDS[name]) | {"--help"}, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_table_begins_with_a_header(document: Path) -> None:
    prose, _ = prose_and_code(document)
    assert headless_rows(prose) == []


def headless_rows(text: str) -> list[str]:
    """The first row of each table that lacks a header: it would be shown as plain text."""
    lines = ["", *text.splitlines(), ""]
    return [
        lines[at]
        for at in range(1, len(lines) - 1)
        if lines[at].startswith("|") and not lines[at - 1].startswith("|") and not re.match(r"\|[ :|-]+\|$", lines[at + 1])
    ]


def test_a_table_that_a_blank_line_breaks_is_found() -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert headless_rows(table + "\n" + table) == []
    assert headless_rows(table + "\n| 3 | 4 |\n| 5 | 6 |\n") == ["| 3 | 4 |"]


def test_the_tables_of_settings_have_exactly_the_flags_of_the_server() -> None:
    """In both directions; `ixfast serve` takes every setting."""
    text = (DOCS / "reference" / "settings.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `--")]
    documented = [flag for row in rows for flag in re.findall(r"`(--[a-z0-9-]+)`", row.split("|")[1])]
    assert len(documented) == len(set(documented))
    assert set(documented) == SETTING_FLAGS - {"--config"}
    assert set(documented) <= options(COMMANDS["ixfast serve"])


def test_a_secret_has_a_file_variant_wherever_it_is_an_option() -> None:
    secrets = [each.flag for each in settings.describe() if each.secret]
    assert secrets
    for name, command in COMMANDS.items():
        for flag in secrets:
            assert (flag in options(command)) == (f"{flag}-file" in options(command)), name


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each.stem not in MEASUREMENTS], ids=name_of)
def test_options_in_the_text_exist(document: Path) -> None:
    """Every `--option`, alone or with a value, is one of a command. Pages about measurements name those of the benchmarks."""
    prose, _ = prose_and_code(document)
    known = {option for command in COMMANDS.values() for option in options(command)} | {"--help", "--version"}
    assert set(re.findall(r"`(--[a-z0-9-]+)[^`]*`", prose)) - known - FOREIGN_OPTIONS == set()


def recipes() -> dict[str, list[list[str]]]:
    """The words of every ixfast command that a file in deploy/ runs."""
    compose, service, script = (ROOT / "deploy" / name for name in ("compose.yaml", "ixfast.service", "make-secrets.sh"))
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    migrate = re.findall(r"^    command: \[(migrate.*)\]$", compose.read_text(), re.MULTILINE)
    return {
        "compose.yaml": [re.split(r",\s*", words) for words in migrate],
        "ixfast.service": [
            words.split() for words in re.findall(r"^ExecStart=\S+/ixfast (.*)$", service.read_text(), re.MULTILINE)
        ],
        "make-secrets.sh": [words.split() for words in re.findall(r"'ixfast ([^&']+)", script.read_text())],
        "Dockerfile": [
            *(words.split() for words in re.findall(r"bin/ixfast ([^\\&\n]+)", image)),
            *(ast.literal_eval(words) for words in re.findall(r"^CMD (\[.*\])$", image, re.MULTILINE)),
        ],
    }


@pytest.mark.parametrize("file", ["compose.yaml", "ixfast.service", "make-secrets.sh", "Dockerfile"])
def test_commands_of_the_recipes_exist(file: str) -> None:
    found = recipes()[file]
    assert found
    for words in found:
        (name, *_) = [path for count in (2, 1) if (path := " ".join(["ixfast", *words[:count]])) in COMMANDS]
        assert {word for word in words if word.startswith("--")} <= options(COMMANDS[name]), words


VARIABLES = {
    "haproxy.cfg": r"\$\{([A-Z0-9_]+)-",
    "nginx.conf": r"\$\{([A-Z0-9_]+)\}",
    "compose.yaml": r"\$\{([A-Z0-9_]+):-",
    "make-secrets.sh": r"\$\{([A-Z0-9_]+):-",
}


@pytest.mark.parametrize("file", VARIABLES)
def test_the_variables_of_a_recipe_are_no_settings(file: str) -> None:
    """A shell, a unit or a container may have them in the environment of a server, too."""
    names = set(re.findall(VARIABLES[file], (ROOT / "deploy" / file).read_text()))
    assert names
    settings_loader.load({}, dict.fromkeys(names, "10.0.0.11:8480"))
    with pytest.raises(ConfigurationError, match="unknown setting"):
        settings_loader.load({}, {"IXFAST_1": "10.0.0.11:8480"})  # the control: such a name would collide
    if file in ("haproxy.cfg", "nginx.conf"):
        page = (DOCS / "how-to" / "run-behind-a-balancer.md").read_text()
        assert names <= set(re.findall(r"`([A-Z0-9_]+)`", page))
        assert all(name.endswith(("_BIND", "_ADDRESS", "_PORT")) for name in names), "a name says what it holds"


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile", "ixfast.service", "make-secrets.sh"])
def test_what_a_recipe_sets_for_ixfast_is_a_setting(file: str) -> None:
    known = {each.env for each in settings.describe()} | {f"{each.env}_FILE" for each in settings.describe() if each.secret}
    names = set(re.findall(r"\bIXFAST_[A-Z0-9_]+\b", (ROOT / "deploy" / file).read_text()))
    assert names and names <= known


def test_what_nothing_runs_is_found() -> None:
    marked = "<!-- not run: needs Docker -->\n```sh\na\n```\n\n% not run: costs money\n```python\nb\n```\n\n"
    text = f"{marked}```sh\nc\n```\n```\nd\n```\n"
    found = fences.fences(text)
    assert [(each.language, each.text, each.is_marked_not_run) for each in found] == [
        ("sh", "a\n", True),
        ("python", "b\n", True),
        ("sh", "c\n", False),
        ("", "d\n", False),
    ]
    assert [each.line for each in found] == [2, 7, 11, 14]


@pytest.mark.parametrize("document", fences.documents(), ids=name_of)
def test_code_blocks_are_run_by_a_test_or_marked(document: Path) -> None:
    """tests/fences.py says how to mark a block that nothing runs."""
    assert list(fences.unaccounted(document, fences.pages_run_by_tests())) == []


def test_the_pages_that_tests_run_exist() -> None:
    pages = fences.pages_run_by_tests()
    assert pages
    assert all(page.is_file() for page in pages)


@pytest.fixture(scope="module")
def sources() -> str:
    """Everything that may read a variable of the environment."""
    folders = [
        (ROOT / "deploy", "*"),
        (ROOT / "benchmarks", "**/*.py"),
        (ROOT / "examples", "*.py"),
        (ROOT / "tests", "**/*.py"),
        (SOURCES, "**/*.py"),
    ]
    files = [ROOT / "setup.py", *(file for folder, pattern in folders for file in folder.glob(pattern))]
    texts = [file.read_text() for file in files if file.is_file() and file != Path(__file__) and file.suffix != ".md"]
    return "\n".join(texts)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_variables_in_documents_exist(document: Path, sources: str) -> None:
    known = {setting.env for setting in settings.describe()} | {"IXFAST_CONFIG", "IXFAST_DSN_FILE"}
    for name in set(re.findall(r"\bIXFAST_[A-Z0-9_]+\b", document.read_text())) - known:
        if not name.startswith(("IXFAST_SERVICE_", "IXFAST_PORT_")):  # what Kubernetes sets
            assert re.search(rf"\b{name}\b", sources), name


def test_the_layers_are_those_of_the_import_contract() -> None:
    text = section((DOCS / "explanations" / "architecture.md").read_text(), "Layers")
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [{package.strip().removeprefix("ixfast.") for package in re.split("[|:]", layer)} for layer in contract["layers"]]
    rows = [re.split(r"(?<!\\)\|", line)[1] for line in text.splitlines() if line.startswith("| `")]
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == layers
