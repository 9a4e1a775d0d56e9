"""No sealed column is forgotten: the real tables and the registry agree."""

from __future__ import annotations

import importlib
import pkgutil

import storage
from storage.encryption.registry import sealed_columns, unregistered
from storage.tables import metadata

FEATURES = ("conversations", "settings", "secrets", "files", "webhooks")


def test_every_sealed_column_is_registered_with_where_its_values_belong() -> None:
    for feature in FEATURES:
        package = importlib.import_module(f"{storage.__name__}.{feature}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    assert unregistered(metadata) == []


def test_labels_carry_a_version_and_no_two_columns_share_one() -> None:
    labels = [column.label for column in sealed_columns()]
    assert len(set(labels)) == len(labels)
    assert all(label.rpartition("/")[2].isdigit() for label in labels)
