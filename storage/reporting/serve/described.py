"""What Datasette is told of the views: titles, what columns mean, units, facets, and queries to begin with."""

from __future__ import annotations

from typing import Any, Final

from storage.reporting.views import VIEWS, View, ViewColumn

NAME: Final = "report"
"""Of the database, in addresses."""

_FACETS: Final = {
    "report_conversation": ["model", "trigger", "repository", "user_id"],
    "report_usage_daily": ["model", "trigger"],
    "report_file": ["media_type", "user_id", "in_database"],
    "report_secret": ["kind", "state", "data_key_state"],
    "report_webhook": ["state", "mode", "format"],
    "report_event_daily": ["type"],
}
"""Columns with few values, to filter by."""

_ORDER: Final = {
    "report_conversation": "created_at",
    "report_usage_daily": "day",
    "report_user": "cost_usd",
    "report_model": "cost_usd",
    "report_repository": "cost_usd",
    "report_file": "size_bytes",
    "report_storage_usage": "day",
    "report_secret": "age_days",
    "report_webhook": "dead",
    "report_event_daily": "day",
}
"""By which column, the highest first."""

_LABELS: Final = {"report_conversation": "title", "report_user": "user_id", "report_webhook": "origin"}
"""What a link to a row reads."""

QUERIES: Final[dict[str, dict[str, str]]] = {
    "cost_by_month": {
        "title": "Cost by month",
        "sql": """\
SELECT substr(day, 1, 7) AS month, sum(conversations) AS conversations, round(sum(cost_usd), 2) AS cost_usd,
  sum(total_tokens) AS total_tokens
FROM report_usage_daily
GROUP BY month
ORDER BY month DESC""",
    },
    "cost_by_model": {
        "title": "Cost by model",
        "description": "With what a thousand tokens cost on average, cached ones among them.",
        "sql": """\
SELECT model, conversations, round(cost_usd, 2) AS cost_usd,
  round(1000 * cost_usd / nullif(total_tokens, 0), 5) AS usd_per_1000_tokens,
  round(100.0 * cache_read_tokens / nullif(prompt_tokens, 0)) AS percent_of_prompt_from_cache
FROM report_model
ORDER BY cost_usd DESC""",
    },
    "most_expensive_conversations": {
        "title": "Most expensive conversations",
        "description": "Those that began on a day or later.",
        "sql": """\
SELECT title, user_id, repository, model, created_day, total_tokens, round(cost_usd, 2) AS cost_usd, conversation_id
FROM report_conversation
WHERE created_day >= coalesce(nullif(:since, ''), '0000')
ORDER BY cost_usd DESC
LIMIT 100""",
    },
    "over_budget": {
        "title": "Conversations near their budget",
        "description": "Those that used nine tenths of it or more.",
        "sql": """\
SELECT title, user_id, round(cost_usd, 2) AS cost_usd, budget_usd, round(100 * cost_usd / budget_usd) AS percent,
  updated_at, conversation_id
FROM report_conversation
WHERE budget_usd > 0 AND cost_usd >= 0.9 * budget_usd
ORDER BY percent DESC""",
    },
    "storage_by_user": {
        "title": "Storage by user",
        "sql": """\
SELECT user_id, files, file_bytes, round(file_bytes / 1e6, 1) AS megabytes, last_conversation_at
FROM report_user
ORDER BY file_bytes DESC""",
    },
    "old_secrets": {
        "title": "Secrets to renew",
        "description": "Set, and not written for so many days.",
        "sql": """\
SELECT user_id, kind, name, host, age_days, updated_at
FROM report_secret
WHERE state = 'set' AND age_days >= cast(coalesce(nullif(:days, ''), '90') AS integer)
ORDER BY age_days DESC""",
    },
    "unreadable_secrets": {
        "title": "Secrets that cannot be read",
        "description": "Their data key is not in the database.",
        "sql": "SELECT user_id, kind, name, host, updated_at FROM report_secret WHERE state = 'unreadable'",
    },
    "webhooks_in_trouble": {
        "title": "Web hooks that need a look",
        "sql": """\
SELECT origin, user_id, state, state_reason, pending, dead, failures, oldest_pending_at, blocked_until
FROM report_webhook
WHERE state <> 'active' OR dead > 0 OR failures > 0
ORDER BY dead DESC, pending DESC""",
    },
}
"""Queries by the name in their address; what follows a colon is asked for."""


STATIC: Final = "storage-report"
"""Where our style sheet is, in addresses."""


def metadata(source: str, whose: str) -> dict[str, Any]:
    """Datasette's metadata for the copied views.

    Args:
        source: the database, for people.
        whose: rows these are.
    """
    return {
        "title": "Storage report",
        "description": f"The report views over {whose} of {source}. Times are UTC, in ISO 8601; days are UTC days.",
        "extra_css_urls": [f"/{STATIC}/style.css"],
        "databases": {NAME: {"tables": {view.name: _table(view) for view in VIEWS}, "queries": QUERIES}},
    }


def _table(view: View) -> dict[str, Any]:
    table: dict[str, Any] = {
        "title": view.name.removeprefix("report_").replace("_", " ").capitalize(),
        "description": view.about,
        "columns": {column.name: _about(column) for column in view.columns},
        # Datasette before 1.0 writes such numbers as 1.2 MB, and takes such filters.
        "units": {column.name: "byte" for column in view.columns if column.name.endswith("bytes")},
    }
    if view.name in _FACETS:
        table["facets"] = _FACETS[view.name]
    if view.name in _ORDER:
        table["sort_desc"] = _ORDER[view.name]
    if view.name in _LABELS:
        table["label_column"] = _LABELS[view.name]
    if view.name == "report_interface":
        table["hidden"] = True
    return table


def _about(column: ViewColumn) -> str:
    more = {"boolean": " (1 or 0)", "json": " (JSON)"}.get(column.kind, "")
    return f"{column.about.replace('`', '')}{more}"
