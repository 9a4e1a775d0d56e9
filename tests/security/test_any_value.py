"""Any text up to 1 MiB, for any user and under any name, is sealed and comes back, on either database."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage import Storage
from storage.identity import MAX_ID_BYTES
from storage.secret_models import MASK, MAX_SECRET_BYTES

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=255).filter(
    lambda text: text.isprintable() and len(text.encode()) <= MAX_ID_BYTES
)


@st.composite
def values(draw: st.DrawFn) -> str:
    """Text that hypothesis finds interesting, repeated up to the longest that is allowed."""
    pattern = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
    size = draw(st.integers(0, 300) | st.integers(0, MAX_SECRET_BYTES) | st.just(MAX_SECRET_BYTES))
    times = size // len(pattern.encode())
    return pattern * times


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=names, name=names, value=values())
@example(user="a" * 255, name="'; DROP TABLE custom_secret; --", value="\0" * MAX_SECRET_BYTES)
@example(user="../../etc", name="{}", value="\U0010ffff" * (MAX_SECRET_BYTES // 4))
async def test_any_text_of_any_user_comes_back_under_any_name(
    storage: Storage, user: str, name: str, value: str
) -> None:
    if value == MASK:
        return
    secrets = storage.user(user).secrets
    await secrets.set_custom_secret(name, value)
    assert (await secrets.get_custom_secret(name)).secret.get_secret_value() == value
    if value.strip():
        await secrets.set_provider_token(name, value, host=name)
        token = (await secrets.get_provider_token(name)).token
        assert token is not None
        assert token.get_secret_value() == value
    storage.keyring.forget(user)
    assert (await secrets.get_custom_secret(name)).secret.get_secret_value() == value
