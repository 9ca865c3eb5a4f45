"""The redactor: what is taken for a secret, and what is left as it is."""

import logging
import subprocess
import sys

import pytest

from trainer_core.redaction import SHOWN, Redactor, secrets_in


@pytest.mark.parametrize(
    "secret",
    [
        "luthier_" + "aB3-_" * 8 + "xyz",
        "hf_" + "a1B2" * 8,
        "sk-proj-" + "a1B2" * 8,
        "whsec_" + "a1B2" * 8,
        *(f"gh{kind}_" + "a1B2" * 9 for kind in "pousr"),
        "github_pat_" + "a1B2" * 9,
    ],
)
def test_what_looks_like_a_key_is_taken_out_wherever_it_stands(secret: str) -> None:
    redactor = Redactor()

    for text in ("{}", "key={}.", '{{"token": "{}"}}', "x\n{}\ny", "https://hub/?token={}"):
        assert secret not in redactor.text(text.format(secret))
        assert SHOWN in redactor.text(text.format(secret))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p@ss/w@db:5432/x", f"postgresql://{SHOWN}@db:5432/x"),
        ("redis://:abc@queue/0", f"redis://{SHOWN}@queue/0"),
        ("Authorization: Bearer abcdefgh12", f"Authorization: Bearer {SHOWN}"),
        ("authorization: bearer abcdefgh12", f"authorization: bearer {SHOWN}"),
        ("GET /x?api_key=12345678&y=1", f"GET /x?{SHOWN}&y=1"),
        ("GET /x?a=1&apikey=12345678", f"GET /x?a=1&{SHOWN}"),
        ("?key=12345678", f"?{SHOWN}"),
        ("?token=12345678", f"?{SHOWN}"),
        ("?secret=12345678", f"?{SHOWN}"),
        ("?password=12345678", f"?{SHOWN}"),
    ],
)
def test_logins_in_addresses_and_headers_are_taken_out(text: str, shown: str) -> None:
    assert Redactor().text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "step 5 of 10, loss 0.25, https://huggingface.co/org/model@main",
        "pad_token=[PAD] eos_token=</s>",
        "mail me@example.org about the hf_model of job_01k9abcdefghjkmnpqrstvwxyz",
        "the key luthier_x is unknown",
        "sk-learn-intents-dataset-of-2024.csv",
        "sha256:" + "ab12" * 16,
    ],
)
def test_ordinary_words_are_left(text: str) -> None:
    assert Redactor().text(text) == text


def test_known_secrets_are_taken_out_in_each_form_and_the_longer_first() -> None:
    redactor = Redactor()
    redactor.learn(["pass word/1", "pass word/123", 'quo"te\\d value', "short"])

    assert redactor.text("a pass word/123 b") == f"a {SHOWN} b"
    assert redactor.text("?p=pass%20word%2F1&") == f"?p={SHOWN}&"
    assert redactor.text(r'{"v": "quo\"te\\d value"}') == f'{{"v": "{SHOWN}"}}'
    assert redactor.text("short") == "short"
    assert redactor.value({"a": ["pass word/1", 1, None], "pass word/1": 2.5}) == {
        "a": [SHOWN, 1, None], SHOWN: 2.5,
    }  # fmt: skip


def test_secrets_of_the_environment_are_known_by_their_names() -> None:
    environment = {
        "WANDB_API_KEY": "wandb-value", "AWS_SECRET_ACCESS_KEY": "aws-value", "HOME": "/root",
        "HF_TOKEN": "hf-value", "LUTHIER_DATABASE_URL": "postgresql://u:db-value@h/x",
        "MONKEY": "banana", "LUTHIER_SECRET_KEY": "one-value,two-value",
    }  # fmt: skip

    found = set(secrets_in(environment))

    assert {"wandb-value", "aws-value", "hf-value", "db-value", "one-value", "two-value"} <= found
    assert not {"/root", "banana"} & found


def test_log_of_a_guarded_process_holds_no_secret() -> None:
    script = """
import logging
from trainer_core.redaction import guard_process
guard_process()
guard_process()
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
logging.info("with %s and %d", "canary-of-the-environment", 5)
try:
    raise ValueError("canary-of-the-environment")
except ValueError:
    logging.exception("it failed")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"A_TOKEN": "canary-of-the-environment", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "canary" not in ended.stderr
    assert f"INFO with {SHOWN} and 5\n" in ended.stderr
    assert f"ValueError: {SHOWN}" in ended.stderr
    assert logging.getLogRecordFactory() is logging.LogRecord
