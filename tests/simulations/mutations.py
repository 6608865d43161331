"""The planted mutations: every rule that the simulator has to see broken.

Problem: see ``planted/vocabulary``.

Idea: one table, from a mutation's name to what it breaks, the world in which it is looked for,
the checker that catches it (watching alone, so that none hides behind another), and the seed.
To find a seed for a new one, give it a world, and ask for all checkers and many seeds first.

Invariants: every world is in ``WORLDS``, every checker in ``CHECKERS``; every checker is the
first catcher of some mutation.
"""

from __future__ import annotations

from typing import Final

from tests.simulations.planted import datatypes, kernel, membership, mesh, store, sync
from tests.simulations.planted.vocabulary import Mutation, Patches, Plant

__all__ = ["MUTATIONS", "Mutation", "Patches"]


def _plant(plant: Plant, world: str, *catchers: str, seed: int, seeds: int = 10) -> Mutation:
    return Mutation(plant, (plant.__doc__ or "").strip(), world, catchers, seed, seeds)


_ALL: Final = (
    # ---------------------------------------------------------------- kernel
    _plant(kernel.skips_dependencies, "registers", "delivery", seed=1),
    _plant(kernel.names_no_dependencies, "registers", "sessions", seed=1),
    _plant(kernel.waits_for_nothing_observed, "sessions", "sessions", seed=1),
    _plant(kernel.answers_before_it_is_covered, "sessions", "sessions", seed=1),
    _plant(kernel.order_ignores_others, "clocks", "clocks", seed=1),
    _plant(kernel.clock_steps_back_after_a_restart, "clocks", "clocks", seed=2),
    _plant(kernel.last_write_wins_on_join, "registers", "reads", seed=1),
    _plant(kernel.deletes_by_name, "registers", "agreement", seed=2),
    _plant(kernel.forgets_part_of_a_supersession, "registers", "rederivation", seed=1),
    _plant(kernel.supersedes_what_was_not_observed, "sessions", "conditions", seed=1),
    _plant(kernel.digest_ignores_removals, "registers", "oracle", seed=1),
    _plant(kernel.drops_the_expired_on_join, "expiring", "oracle", seed=1),
    _plant(kernel.collects_expired_without_a_delta, "expiring", "oracle", seed=1),
    _plant(kernel.never_removes_the_expired, "expiring", "expiry", seed=1),
    _plant(kernel.acknowledges_before_the_fsync, "disks", "acknowledged", seed=1),
    _plant(kernel.publishes_before_the_fsync, "crashes", "identities", seed=4),
    _plant(kernel.reuses_a_dot_after_a_failed_commit, "disks", "identities", seed=2),
    _plant(kernel.keeps_a_failed_commit, "disks", "durability", seed=1),
    _plant(kernel.forgets_a_failed_flights_batches, "disks", "liveness", seed=1),
    _plant(kernel.half_a_transaction, "ledgers", "transactions", seed=1),
    _plant(kernel.forgets_operation_ids, "retrying", "counters", seed=1),
    _plant(kernel.takes_nothing_back, "retrying", "counters", seed=9, seeds=20),
    _plant(kernel.conditions_are_not_checked, "registers", "conditions", seed=1),
    _plant(kernel.trust_ignored, "trust", "trust", seed=1),
    _plant(kernel.sibling_limit_ignored, "tight", "crowding", seed=1),
    _plant(kernel.answers_durable_everywhere, "registers", "durability", seed=1),
    # ---------------------------------------------------------------- store
    _plant(store.every_other_fsync_is_skipped, "crashes", "durability", seed=1),
    _plant(store.recovers_without_the_last_batch, "crashes", "recovery", seed=1),
    _plant(store.recovers_without_the_checkpoint, "crashes", "oracle", seed=1),
    _plant(store.checkpoint_position_noted_at_the_end, "crashes", "recovery", seed=1),
    _plant(store.checkpoint_beside_a_flight, "checkpoints", "recovery", seed=5),
    _plant(store.cuts_the_log_above_the_checkpoint, "transfers", "recovery", seed=3),
    _plant(store.continues_its_id_after_a_torn_tail, "disks", "recovery", seed=3),
    _plant(store.continues_its_id_after_a_restore, "identities", "identities", seed=1),
    _plant(store.ignores_another_history_of_its_id, "copies", "liveness", seed=1),
    _plant(store.ignores_the_quarantine, "given_up", "recovery", seed=1),
    _plant(store.forgets_the_verdict, "evictions", "identities", seed=1),
    # ---------------------------------------------------------------- sync
    _plant(sync.acknowledges_what_is_not_durable, "disks", "durability", seed=3),
    _plant(sync.sent_counts_as_acknowledged, "registers", "durability", seed=1),
    _plant(sync.requests_are_never_repeated, "differences", "liveness", seed=1),
    _plant(sync.relays_nothing, "streams", "liveness", seed=1),
    _plant(sync.counts_what_was_dropped_as_taken, "tight", "liveness", seed=1),
    _plant(sync.gaps_are_not_heard, "transfers", "liveness", seed=1),
    _plant(sync.credit_is_never_returned, "tight", "liveness", seed=1),
    _plant(sync.inbox_has_no_bound, "relays", "bounds", seed=2),
    _plant(sync.snapshot_brings_back_what_was_removed, "transfers", "resurrection", seed=1),
    _plant(sync.snapshot_replaces_what_was_written_since, "transfers", "joins", seed=1),
    _plant(sync.snapshot_claims_more_than_it_holds, "transfers", "oracle", seed=2),
    _plant(sync.snapshot_leaves_out_where_it_was_written, "transfers", "unwritten", seed=1),
    _plant(sync.queue_has_no_bound, "crowd", "bounds", seed=2),
    _plant(sync.takes_frames_unchecked, "noise", "identities", seed=4),
    _plant(sync.hash_chain_is_not_checked, "forks", "delivery", seed=1),
    _plant(sync.difference_ignores_what_came_since, "differences", "oracle", seed=10),
    _plant(sync.takes_absence_for_evidence, "forgetting", "repair", seed=2),
    # ---------------------------------------------------------------- membership
    _plant(membership.stability_ignores_a_member, "removals", "stability", seed=2),
    _plant(membership.stability_counts_early, "relays", "stability", seed=1),
    _plant(membership.collects_what_is_only_joined_here, "removals", "stability", seed=1),
    _plant(membership.writes_before_its_admission, "evictions", "durability", seed=1),
    _plant(membership.evicted_replicas_go_on, "evictions", "liveness", seed=1),
    _plant(membership.final_before_all_survivors_know, "given_up", "membership", seed=1),
    _plant(membership.takes_beyond_a_cut, "given_up", "membership", seed=1),
    # ---------------------------------------------------------------- the mesh
    _plant(mesh.nobody_is_sought, "apart", "gathering", seed=1),
    _plant(mesh.every_life_is_the_first, "restarts", "lives", seed=1),
    _plant(mesh.deaths_count_as_farewells, "apart", "farewells", seed=1),
    _plant(mesh.older_views_bring_back_who_left, "leaving", "farewells", seed=7),
    _plant(mesh.accusations_are_believed_at_once, "liars", "false_deaths", seed=1),
    _plant(mesh.broadcasts_are_not_remembered, "restarts", "broadcasts", seed=1),
    _plant(mesh.own_broadcasts_only, "restarts", "broadcasts", seed=1),
    # ---------------------------------------------------------------- datatypes
    _plant(datatypes.counts_a_continued_total_anew, "resetting", "counters", seed=2),
    _plant(datatypes.reset_writes_no_baselines, "resetting", "counters", seed=2),
    _plant(datatypes.collects_baselines_of_live_fields, "removals", "counters", seed=2),
    _plant(datatypes.spends_the_rights_of_others, "budgets", "budgets", seed=1),
    _plant(datatypes.bounded_counter_reclaims_stranded_rights, "budgets", "budgets", seed=1),
    _plant(datatypes.compaction_forgets_an_update, "documents", "documents", seed=1),
    _plant(datatypes.shows_what_came_last_here, "registers", "agreement", seed=1),
    _plant(datatypes.sees_the_expired, "expiring", "reads", seed=1),
    _plant(datatypes.collects_removals_alone, "sets", "semantics", seed=1),
    _plant(datatypes.adds_leave_removals_standing, "sets", "semantics", seed=6),
)

MUTATIONS: Final[dict[str, Mutation]] = {mutation.plant.__name__: mutation for mutation in _ALL}
"""Every mutation by name."""
