"""All tables at once, for those who need the whole schema: migrations, schema checks and reporting."""

from __future__ import annotations

from storage.conversations.table import ConversationTable
from storage.database.metadata import metadata
from storage.encryption.table import DataKeyTable, KeyEncryptionKeyTable
from storage.files.table import FileContentTable, FileTable
from storage.secrets.table import CustomSecretTable, ProviderTokenTable, UserSecretsTable
from storage.settings.table import SettingsTable
from storage.webhooks.table import DeliveryTable, EventTable, WebhookEndpointTable

__all__ = [
    "ConversationTable",
    "CustomSecretTable",
    "DataKeyTable",
    "DeliveryTable",
    "EventTable",
    "FileContentTable",
    "FileTable",
    "KeyEncryptionKeyTable",
    "ProviderTokenTable",
    "SettingsTable",
    "UserSecretsTable",
    "WebhookEndpointTable",
    "metadata",
]
