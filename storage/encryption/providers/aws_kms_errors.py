"""What AWS's answers mean for a key: gone, out of reach, or altered, and what to do about it.

AWS names an error and leaves it at that. Whoever runs this needs to know whether to wait, to ask an administrator,
or to mend the configuration.
"""

from __future__ import annotations

from typing import Final

from storage.errors import ConfigurationError, KeyMissing, KeyUnavailable, StorageError, Tampered

_OF_THIS_KEY: Final[dict[str, tuple[type[StorageError], str]]] = {
    "AccessDeniedException": (
        KeyUnavailable,
        "may not be used with these credentials; allow kms:Encrypt, kms:Decrypt and kms:DescribeKey on it",
    ),
    "NotFoundException": (
        KeyMissing,
        "does not exist in this account and region; check aws_kms_key_ids and the region",
    ),
    "DisabledException": (KeyUnavailable, "is disabled; enable it"),
    "KMSInvalidStateException": (
        KeyUnavailable,
        "cannot be used in its state; cancel its deletion and enable it, or finish importing its material",
    ),
    "InvalidArnException": (ConfigurationError, "has no valid ARN; correct aws_kms_key_ids"),
    "ValidationException": (ConfigurationError, "has no valid id; correct aws_kms_key_ids"),
    "InvalidKeyUsageException": (
        ConfigurationError,
        "does not encrypt; name a symmetric key for encryption (SYMMETRIC_DEFAULT) in aws_kms_key_ids",
    ),
    "UnsupportedOperationException": (
        ConfigurationError,
        "does not encrypt; name a symmetric key for encryption (SYMMETRIC_DEFAULT) in aws_kms_key_ids",
    ),
}
"""Errors that stay until somebody does something, and say nothing of other keys."""

_ALTERED: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})

_CREDENTIALS: Final = frozenset(
    {
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)

LASTING: Final = "lasting"
"""Name of the attribute that `typed` sets on an error which concerns one key and does not pass by itself."""


def typed(key: str, error: Exception) -> StorageError:
    """The error of ours that says what boto3's means.

    Args:
        key: id, ARN or alias of the key, for the message.
        error: what a call for that key raised.
    """
    # ClientError has an answer; errors of the connection have the attribute too, and None in it.
    code: str = (getattr(error, "response", None) or {}).get("Error", {}).get("Code", "")
    name = type(error).__name__
    if code in _OF_THIS_KEY:
        kind, remedy = _OF_THIS_KEY[code]
        return lasting(kind(f"the AWS KMS key {key} {remedy} ({code})"))
    if code in _ALTERED:
        return Tampered(
            f"a wrapped data key cannot be opened with the AWS KMS key {key}: it was altered, or belongs to another "
            "user or master key. Restore its row (table data_key) from a backup"
        )
    if code in _CREDENTIALS or name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return KeyUnavailable(
            f"the AWS KMS key {key} is out of reach: no AWS credentials, or AWS refuses them ({code or name}); renew "
            "them, or check the role, profile or AWS_ACCESS_KEY_ID of this process"
        )
    if name == "NoRegionError":
        return ConfigurationError(
            "the AWS region is not known; set AWS_REGION, or name the key by its ARN in aws_kms_key_ids"
        )
    if name in ("ParamValidationError", "ProfileNotFound", "ConfigParseError", "ValueError"):
        return ConfigurationError(f"AWS KMS cannot be asked for the key {key}: {error}")
    return KeyUnavailable(
        f"the AWS KMS key {key} is out of reach for the moment ({code or name}); try again, and check the way to AWS"
    )


def lasting(error: StorageError) -> StorageError:
    """Mark an error as one that stays until somebody does something about this key."""
    setattr(error, LASTING, True)
    return error


def is_lasting(error: StorageError) -> bool:
    """Whether the error concerns one key and does not pass by itself."""
    return getattr(error, LASTING, False)
