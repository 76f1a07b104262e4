"""What is shown of a backend's errors holds no secret, whatever a server or a driver says."""

import time
from urllib.parse import unquote

import pytest

from pyncette.store.redaction import CHARACTERS_MAX, without_secrets

PASSWORDS = ["hunter2", "p%40s%2Fs%3Aw%3Fo%23rd", "pass+word%21", "x7"]

URLS = [
    "postgresql://shop:{}@db.example:5432/shop?sslmode=require",
    "mysql://shop:{}@db.example/shop",
    "redis://shop:{}@cache.example:6379/0",
    "rediss+sentinel://:{}@one:26379,two:26379/primary",
    "dynamodb://eu-west-1/table?endpoint=http://user:{}@localhost:8000",
    "redis://cache.example/0?password={}",
    "postgresql://db.example/shop?user=shop&password={}",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("form", URLS)
@pytest.mark.parametrize(
    "words",
    [
        "cannot connect to {url}",
        'invalid port in "{url}"',
        "Connection(host=db, username=shop, password={password})",
        "Connection(password='{plain}', host='db')",
        "AUTH failed: {plain}",
        "wrong: {password}.",
        '{{"password": "{plain}"}}',
        "{userinfo} was refused",
        'Could not connect to the endpoint URL: "http://shop:{password}@db.example/"',
    ],
)
def test_no_part_of_a_url_that_opens_a_backend_is_shown(password, form, words):
    url = form.format(password)
    told = words.format(url=url, password=password, plain=unquote(password), userinfo=f"shop:{password}")

    shown = without_secrets(told, [url])

    assert password not in shown.replace("…", " ").split()
    for secret in {url, password, unquote(password)} - {"x7"}:
        assert secret not in shown


@pytest.mark.parametrize(
    "words",
    [
        'PostgreSQL at db.example:5432/shop: authentication failed: password authentication failed for user "shop". Check the user',
        "MySQL at db/shop: authentication failed: Access denied for user 'shop'@'10.0.0.1' (using password: YES). Check the user and the password",
        "Redis at cache:6379/0: authentication failed: invalid username-password pair or user is disabled. Check the user and the password",
        "DynamoDB table jobs: authentication failed: The security token included in the request is invalid. Check the credentials",
        "SQLite database /data/jobs.db: permission denied: grant the right to write the file and its folder",
    ],
)
def test_helpful_words_are_kept(words):
    assert without_secrets(words, [form.format("hunter2") for form in URLS]) == words


def test_a_host_without_a_user_stays():
    words = "PostgreSQL at db.example:5432/shop does not answer"

    assert without_secrets(words, ["postgresql://db.example:5432/shop"]) == words


def test_text_that_looks_like_a_secret_is_redacted():
    assert "k3y" not in without_secrets("tried mysql://root:k3y@old/db")
    assert "k3y" not in without_secrets("old settings: password=k3y, host=db")
    assert "FwoGZXIvYXdzE" not in without_secrets("x-amz-security-token:FwoGZXIvYXdzE/x+y=")


def test_credentials_of_the_environment_are_not_shown(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")

    assert "wJalrXUtnFEMI" not in without_secrets("the key wJalrXUtnFEMI does not match")


def test_messages_are_the_same_at_each_attempt_on_one_line_and_short():
    first = without_secrets("no primary:\n <Retry object at 0x7f602ac4ee90>")

    assert first == without_secrets("no primary:\n <Retry object at 0x7f602b90c510>") == "no primary: <Retry>"
    assert len(without_secrets("x" * 9000)) == CHARACTERS_MAX


@pytest.mark.parametrize("piece", ["pwd-", "pwd", "a-", "://", "password = ", "://a@", "secret:"])
def test_a_hostile_server_cannot_keep_the_operator_busy(piece):
    began_at = time.process_time()

    shown = without_secrets(piece * 20_000, [form.format("hunter2") for form in URLS])

    assert time.process_time() - began_at < 1
    assert len(shown) <= CHARACTERS_MAX


def test_control_characters_are_removed():
    shown = without_secrets("\x1b[2J\x9b31m gone\x07\x00 \u202eback\n\r\x08")

    assert shown == "[2J 31m gone back"


def test_a_password_that_a_terminal_would_act_on_is_not_shown():
    assert "s3cr" not in without_secrets("wrong: s3cr\x1b\x00et", ["redis://:s3cr%1b%00et@cache:6379/0"])
