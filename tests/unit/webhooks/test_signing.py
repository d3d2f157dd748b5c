from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from fairlead.webhooks import secret_of, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_specification_s_own_example_comes_out() -> None:
    """https://github.com/standard-webhooks/standard-webhooks, the example of its libraries' tests."""
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}', secrets=[SECRET], now=at)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_receiver_with_either_secret_accepts_and_one_with_another_does_not() -> None:
    new, old, other = (secret_of(b"k" * 32, "wh_1", number) for number in (2, 1, 3))
    headers = signed_headers("m", "{}", secrets=[new, old], now=datetime.now(UTC))
    for secret in (new, old):
        Webhook(secret).verify("{}", headers)
    for body, secret in (("{}", other), ("{ }", new)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)


def test_secrets_differ_by_endpoint_number_and_server_and_come_back_the_same() -> None:
    made = {
        secret_of(key, endpoint, number)
        for key in (b"k" * 32, b"l" * 32)
        for endpoint in ("wh_1", "wh_2")
        for number in (1, 2)
    }
    assert len(made) == 8
    assert secret_of(b"k" * 32, "wh_1", 1) in made
    assert all(one.startswith("whsec_") and len(one) == 50 for one in made)
