"""The git hosts that a conversation or a token can belong to; both features name them, so the names live below both."""

from __future__ import annotations

from enum import StrEnum


class ProviderType(StrEnum):
    """A git host, by the value under which it is stored."""

    GITHUB = "github"
    GITLAB = "gitlab"
    BITBUCKET = "bitbucket"
    BITBUCKET_DATA_CENTER = "bitbucket_data_center"
    FORGEJO = "forgejo"
    AZURE_DEVOPS = "azure_devops"
    ENTERPRISE_SSO = "enterprise_sso"
