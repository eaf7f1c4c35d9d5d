"""What only one of MySQL, MariaDB and SQLite understands, looked for in our SQL."""

import re

_ONLY_SOME = {
    "RETURNING (MariaDB, SQLite)": r"\bRETURNING\b",
    "a JSON function or operator": r"\bJSON_\w+\s*\(|->>?|\bJSON\s+(NOT\s+)?NULL|\bAS\s+JSON\b",
    "a UUID type or function (MariaDB)": r"\bUUID\b|\bINET6\b",
    "a collation of one of them": r"utf8mb4_0900|_nopad_|uca1400|\bCOLLATE\b",
    "a row alias of an insert (MySQL)": r"\bVALUES\s*\(.*\)\s*AS\s+\w+",
    "VALUES in an update (not in new MySQL)": r"\bON\s+DUPLICATE\s+KEY\b",
    "ON CONFLICT (SQLite)": r"\bON\s+CONFLICT\b|\bINSERT\s+OR\b",
    "INSERT IGNORE (MySQL, MariaDB)": r"\bINSERT\s+IGNORE\b|\bUPDATE\s+IGNORE\b",
    "FOR UPDATE OF (MySQL)": r"\bFOR\s+UPDATE\s+OF\b|\bFOR\s+SHARE\b",
    "IF EXISTS in a change of a table (MariaDB)": r"\bALTER\s+TABLE\b.*\bIF\s+(NOT\s+)?EXISTS\b",
    "IF EXISTS of an index (MariaDB)": r"\b(CREATE|DROP)\s+(UNIQUE\s+)?INDEX\s+IF\b",
    "a change of a column (not in SQLite)": r"\b(MODIFY|CHANGE)\s+COLUMN\b|\bALTER\s+COLUMN\b",
    "an index part or order (not in all)": r"\bCREATE\b.*\bINDEX\b.*(\bDESC\b|`\(\d+\)|\bWHERE\b|\(\()",
    "a lateral or recursive query": r"\bLATERAL\b|\bRECURSIVE\b",
    "EXCEPT or INTERSECT (not in MySQL 8.0)": r"\bEXCEPT\b|\bINTERSECT\b",
    "a limit within IN (MySQL, MariaDB)": r"\bIN\s*\(\s*SELECT\b(?:[^()]|\([^()]*\))*\bLIMIT\b",
    "a sequence or a history (MariaDB)": r"\bSEQUENCE\b|\bNEXT\s+VALUE\b|\bSYSTEM_TIME\b|\bSYSTEM\s+VERSIONING\b",
    "NULLS FIRST or LAST (SQLite)": r"\bNULLS\s+(FIRST|LAST)\b",
    "an outer join of both sides (SQLite)": r"\bFULL\s+(OUTER\s+)?JOIN\b",
    "text put together by ||": r"\|\|",
    "an index hint": r"\b(FORCE|USE|IGNORE)\s+INDEX\b|\bINDEXED\s+BY\b",
    "double quotes around a name": r'"\w+"',
    "ILIKE or REGEXP": r"\bILIKE\b|\bREGEXP\b|\bRLIKE\b|\bGLOB\b",
    "a window of one of them": r"\bFILTER\s*\(",
}
_TEXT = re.compile(r"'(?:[^']|'')*'")
_SAME_TABLE = re.compile(r"^(?:UPDATE|DELETE\s+FROM)\s+`(\w+)`.*\(SELECT\b.*\bFROM\s+`\1`", re.IGNORECASE | re.DOTALL)


def not_portable(statement: str) -> list[str]:
    """What of `statement` not all engines understand, or understand in the same way."""
    bare = _TEXT.sub("''", statement)
    found = [what for what, how in _ONLY_SOME.items() if re.search(how, bare, re.IGNORECASE | re.DOTALL)]
    if _SAME_TABLE.search(bare):
        found.append("a change of a table that its sub-select reads (not in MySQL)")
    return found
