"""No SQL of ours needs one of the engines: the files and the texts in the code here, what is really sent in
`tests/integration/rows`, which records every statement of its tests."""

import ast
import re
from pathlib import Path

import pytest

from api.db.migrations import draft, migrations, statements
from tests.unit.api.db.portable_sql import not_portable

ROOT = Path(__file__).parents[4]
_STATEMENT = re.compile(r"^\s*(SELECT|INSERT|REPLACE|UPDATE|DELETE|CREATE|ALTER|DROP)\s", re.IGNORECASE)
_OF_ONE_ENGINE = ("sqlite.py", "mysql.py", "mysql_connection.py")
"""A dialect may; MySQL's and MariaDB's differences are looked for there, too."""


@pytest.mark.parametrize("path", migrations().values(), ids=lambda path: path.name)
def test_migrations(path: Path) -> None:
    for statement in statements(path.read_text("utf-8")):
        assert not_portable(statement) == [], statement


def test_what_the_next_migration_is_drawn_from() -> None:
    for statement in draft.schema():
        assert not_portable(statement) == [], statement


def test_texts_in_the_code() -> None:
    seen = 0
    for path in sorted((ROOT / "api" / "db").rglob("*.py")):
        for text in _texts(ast.parse(path.read_text("utf-8"))):
            if _STATEMENT.match(text) and path.name != "sqlite.py":
                seen += 1
                assert not_portable(text) == [], (path.name, text)
    assert seen >= 8


def _texts(tree: ast.AST) -> list[str]:
    """The texts of a module, with what is put into them left out; docstrings begin otherwise."""
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO `a` (`b`) VALUES (1) RETURNING `id`",
        "SELECT JSON_EXTRACT(`a`, '$.b') FROM `c`",
        "SELECT `a`->'$.b' FROM `c`",
        "CREATE TABLE `a` (`b` UUID NOT NULL)",
        "CREATE TABLE `a` (`b` TEXT COLLATE utf8mb4_0900_ai_ci)",
        "INSERT INTO `a` VALUES (1) AS new ON DUPLICATE KEY UPDATE `b` = new.`b`",
        "INSERT OR REPLACE INTO `a` VALUES (1)",
        "INSERT INTO `a` VALUES (1) ON CONFLICT DO NOTHING",
        "SELECT 1 FROM `a` FOR UPDATE OF `a` SKIP LOCKED",
        "ALTER TABLE `a` ADD COLUMN IF NOT EXISTS `b` INTEGER",
        "CREATE INDEX IF NOT EXISTS `a` ON `b` (`c`)",
        "CREATE INDEX `a` ON `b` (`c`(10))",
        "SELECT 1 FROM `a` WHERE `b` IN (SELECT `c` FROM `d` ORDER BY `c` LIMIT 5)",
        "SELECT `a` FROM `b` ORDER BY `a` NULLS FIRST",
        "SELECT `a` || 'x' FROM `b`",
        'SELECT "a" FROM `b`',
        "DELETE FROM `a` WHERE `b` IN (SELECT `b` FROM `a` WHERE `c` = 1)",
    ],
)
def test_what_is_looked_for_is_found(statement: str) -> None:
    assert not_portable(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT `a` FROM `b` WHERE `c` = 'RETURNING || \"x\" JSON_EXTRACT('",
        "SELECT `id` FROM `task` WHERE `id` = %s FOR UPDATE SKIP LOCKED",
        "REPLACE INTO `a` (`b`) VALUES (%s)",
        "UPDATE `a` SET `b` = 1 WHERE `c` NOT IN (SELECT `c` FROM `d`)",
    ],
)
def test_what_all_understand_is_not(statement: str) -> None:
    assert not_portable(statement) == []
