"""``crdtmem policy`` against a real node: what it shows, and that quotas bind."""

from __future__ import annotations

from tests.cli.conftest import Run

PLAIN = {"resolver": "latest", "resolver_version": 1, "trust_ordered": False}


def test_a_space_without_a_policy_shows_the_default(ask: Run) -> None:
    assert ask("policy", "rules/none", "--json").json == {
        "space": ["rules", "none"],
        "policy": PLAIN,
    }
    shown = ask("policy", "rules/none").out
    assert "quota_entries" in shown
    assert "none" in shown


def test_only_what_is_named_is_changed(ask: Run) -> None:
    ask("policy", "rules/some", "--quota-keys", "5", "--resolver", "maximum")
    changed = ask("policy", "rules/some", "--trust-ordered", "--json").json["policy"]
    assert changed == {**PLAIN, "resolver": "maximum", "trust_ordered": True, "quota_keys": 5}
    lifted = ask("policy", "rules/some", "--no-quota", "keys", "--json").json["policy"]
    assert lifted == {**PLAIN, "resolver": "maximum", "trust_ordered": True}
    assert ask("policy", "rules/some", "--json").json["policy"] == lifted


def test_a_quota_refuses_what_adds_beyond_it_and_says_the_figures(ask: Run) -> None:
    ask("policy", "rules/full", "--quota-keys", "1")
    ask("set", "rules/full", "a", "1")
    refused = ask("set", "rules/full", "b", "1", "--json", code=4).json["error"]
    assert refused["code"] == "quota_exceeded"
    assert "its quota is 1" in refused["message"]
    assert refused["hint"]
    held = ask("status", "--json").json["quotas"]["rules/full"]
    assert held == {"keys": 1, "quota_keys": 1, "entries": 1, "quota_entries": None}
    assert "rules/full" in ask("status").out
    ask("set", "rules/full", "a", "2")
    ask("set", "rules/full", "a", "--operation", "delete")
    ask("set", "rules/full", "b", "1")


def test_a_quota_is_set_or_lifted_but_not_both(ask: Run) -> None:
    ask("policy", "rules/both", "--quota-keys", "1", "--no-quota", "keys", code=2)
    ask("policy", "rules/both", "--quota-keys", "-1", code=2)
    ask("policy", "rules/both", "--resolver", "of-tomorrow", code=2)
