"""No sealed column is forgotten: the real tables and the registry agree."""

from __future__ import annotations

import subprocess
import sys

from storage.encryption.registry import sealed_columns, unregistered
from storage.tables import metadata


def test_every_sealed_column_is_registered_with_where_its_values_belong() -> None:
    assert unregistered(metadata) == []


def test_the_tables_alone_register_their_sealed_columns() -> None:
    program = "import storage.tables as t, storage.encryption.registry as r; print(r.unregistered(t.metadata))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"


def test_labels_carry_a_version_and_no_two_columns_share_one_but_where_one_repeats_the_other() -> None:
    labels = [column.label for column in sealed_columns() if column.repeats is None]
    assert len(set(labels)) == len(labels)
    assert all(label.rpartition("/")[2].isdigit() for label in labels)
