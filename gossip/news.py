"""What is believed of what is heard: the rules by which news changes the table.

Problem: news is hearsay. A member that is mistaken, late or malicious must not be able to
evict or impersonate one that is alive and reachable, and what is old must not revive the gone.

Idea: news is ordered by (generation, incarnation, state) and most of it is simply newer or
older. What would change the life or the profile of a living member, accuse a word of it that
was never seen, raise its incarnation out of reach, or say farewell in its name is a *hint*:
its subject is asked, and only its own direct answer, or its silence, decides. A death is
believed of a member that was suspected for a while; of another it is a suspicion.

Invariants: the listed word of a member only rises, but for one that it denies at first hand;
``LEFT`` is final for a generation, unless that life itself answers with a newer word (then the
farewell was not its own); only a member's own answer at first hand changes its generation or
profile while it is alive; one's own incarnation rises above every credible accusation.

Source: SWIM, sections 4.2 and 4.3; the verification is this project's.
"""

from __future__ import annotations

from dataclasses import replace

from gossip.damping import Damping
from gossip.effects import MemberChanged
from gossip.members import Member
from gossip.messages import Alive, Dead, Record, Stamp, State, Suspect
from gossip.pool import Pool
from gossip.succession import outlived
from gossip.suspicion import REFUSAL, Suspicion, minimum_us

__all__ = ["News"]


class News:
    """The rules, over one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # -------------------------------------------------------------- alive

    def alive(self, record: Record, *, proven: bool = False, pushed: bool = False) -> None:
        """Hear a member's record. ``proven``: from itself, in answer to a question put to that
        address; ``pushed``: out of somebody's table, where it may have lain for long."""
        pool = self._pool
        if record.member == pool.me.member:
            self._my_record(record)
            return
        entry = pool.table.get(record.member)
        if entry is None:
            if pushed and not proven:
                pool.ask(record, None)
            else:
                self._admit(record)
                if proven:
                    self._prove(record)
            return
        known = entry.record
        if self._is_old(entry, record):
            return
        if proven:
            self._install(entry, record)
            self._prove(record)
            return
        jump = record.incarnation - known.incarnation > pool.config.incarnation_jump
        another_life = record.generation != known.generation
        if entry.live:
            # A refutation says nothing else anew; whatever does is verified.
            hint = another_life or jump or record.profile != known.profile
        else:
            # A forged life, once believed, would make the true one look old for ever.
            hint = pushed or jump or another_life or entry.state is State.LEFT
        if hint:
            pool.ask(record, None)
        else:
            self._install(entry, record)

    def correct(self, entry: Member, record: Record) -> None:
        """Take a member's own word, said at first hand, in place of a higher one that it never
        said: hearsay from before it was met, or forged."""
        self._pool.refuse("impersonation")
        self._install(entry, record)
        self._prove(record)

    def _prove(self, record: Record) -> None:
        entry = self._pool.table.get(record.member)
        if entry is not None and entry.record == record:
            entry.proven = True
            self._pool.seal.confirm(record.member, record.generation)

    def _is_old(self, entry: Member, record: Record) -> bool:
        known, pool = entry.record, self._pool
        if (record.generation, record.incarnation) < (known.generation, known.incarnation):
            pool.refuse("stale")
            return True
        moved = record.profile.gossip_address != entry.address
        newer = (record.generation, record.incarnation) > (known.generation, known.incarnation)
        gone = entry.state is State.LEFT and record.generation == known.generation
        # A life that denies its farewell does so from where it lived.
        if newer and not (gone and moved):
            return False
        if gone:
            pool.refuse("left")
        elif moved:
            self._doubled(known, record)
        return True

    def _admit(self, record: Record) -> None:
        pool = self._pool
        if not pool.table.room():
            pool.refuse("members")
            pool.warn("full", 0, "the pool is full: a newcomer is refused", refused=record.member)
            return
        pool.table.add(record, pool.now_us)
        pool.emit(MemberChanged(record, State.ALIVE, None))
        self._after_alive(record)

    def _install(self, entry: Member, record: Record) -> None:
        pool, previous = self._pool, entry.state
        if not entry.live and not pool.table.room():
            pool.refuse("members")
            return
        if previous is State.DEAD and record.generation == entry.record.generation:
            pool.counters.false_alarms += 1
        if previous is State.SUSPECT:
            pool.counters.cleared += 1
        pool.agenda.cancel(("suspect", record.member))
        pool.agenda.cancel(("reap", record.member))
        pool.table.renew(entry, record, pool.now_us)
        pool.emit(MemberChanged(record, State.ALIVE, previous))
        self._after_alive(record)

    def _after_alive(self, record: Record) -> None:
        pool = self._pool
        pool.tell(Alive(record))
        self._remember_soon()
        others = pool.table.namesakes(record)
        if record.profile.name and (others or record.profile.name == pool.me.profile.name):
            other = others[0] if others else pool.me.member
            pool.warn(
                "name_conflict", record.member,
                f"members {record.member} and {other} are both named {record.profile.name!r}",
                shared_name=record.profile.name, other=other,
            )  # fmt: skip

    def _remember_soon(self) -> None:
        if ("remember", 0) not in self._pool.agenda:
            self._pool.agenda.set(("remember", 0), self._pool.now_us)

    # -------------------------------------------------------------- oneself

    def _my_record(self, record: Record) -> None:
        pool = self._pool
        me = pool.me
        heard, mine = (record.generation, record.incarnation), (me.generation, me.incarnation)
        if heard < mine:
            return
        elsewhere = record.profile.gossip_address != pool.address
        if record.generation > me.generation or elsewhere:
            # Answering in kind would have both copies outbid each other for ever.
            self._doubled(me, record)
        elif heard > mine:
            self._refute(record.incarnation)

    def mirrored(self, record: Record) -> None:
        """Hear a packet in one's own name, with the record of its sender: from another address
        it is a double's, whatever its generation, for the packet was sent just now."""
        if record.profile.gossip_address != self._pool.address:
            self._doubled(self._pool.me, record)

    def _doubled(self, known: Record, record: Record) -> None:
        pool = self._pool
        if known.member == pool.me.member and record.generation > pool.me.generation:
            said = outlived(pool.me, record.generation)
            if said is not None:
                pool.emit(replace(said, over=False))
        pool.refuse("doubled")
        fresh = pool.warn(
            "doubled", known.member,
            f"member {known.member} lives twice: at {known.profile.gossip_address} and at "
            f"{record.profile.gossip_address}; one of them is a copy and needs another id",
            address=known.profile.gossip_address, other_address=record.profile.gossip_address,
            generation=known.generation, other_generation=record.generation,
        )  # fmt: skip
        if not fresh:
            return
        if known.member == pool.me.member:
            pool.send(record.profile.gossip_address, Alive(pool.me), gossip=False)
        else:
            self.introduce(known, record)

    def introduce(self, known: Record, record: Record) -> None:
        """Let two that claim one id hear of each other: they can tell, and their operators."""
        pool = self._pool
        pool.send(record.profile.gossip_address, Alive(known), gossip=False)
        pool.send(known.profile.gossip_address, Alive(record), gossip=False)

    def _accused(self, stamp: Stamp, sender: int, *, over: bool) -> None:
        pool = self._pool
        me = pool.me
        if stamp.generation > me.generation:
            pool.refuse("doubled")
            if over:
                self._outlived(stamp.generation)
        elif stamp.generation < me.generation:
            pool.refuse("stale")
        elif stamp.incarnation >= me.incarnation:
            self._refute(stamp.incarnation)
        else:
            # It has not heard the answer yet.
            entry = pool.table.get(sender)
            if entry is not None and entry.reminded_us != pool.now_us:
                entry.reminded_us = pool.now_us
                pool.send(entry.address, Alive(me), gossip=False)

    def my_end(self, record: Record, state: State, sender: int) -> None:
        """Hear out of somebody's table that a life of one's own id is over, and where it was."""
        pool = self._pool
        elsewhere = record.profile.gossip_address != pool.address
        if state is State.LEFT and elsewhere and record.generation == pool.me.generation:
            # Final for that generation: a refutation from another address is not believed.
            pool.refuse("doubled")
            self._outlived(record.generation)
        else:
            self._accused(record.stamp, sender, over=True)

    def _outlived(self, generation: int) -> None:
        pool = self._pool
        said = outlived(pool.me, generation, twin=generation == pool.me.generation)
        if said is not None:
            pool.emit(said)
            return
        pool.refuse("generation")
        pool.warn(
            "outlived", pool.me.member,
            f"life {generation} of this member is said to be over, far above its own: who "
            "believes that refuses it until it bears another id",
            generation=pool.me.generation, other_generation=generation,
        )  # fmt: skip

    def _refute(self, incarnation: int) -> None:
        pool = self._pool
        if incarnation - pool.me.incarnation > pool.config.incarnation_jump:
            # Nobody believes it without asking here, and what is answered here is lower.
            pool.refuse("incarnation")
            return
        pool.counters.refutations += 1
        pool.health.worse()
        pool.become(incarnation + 1)

    # -------------------------------------------------------------- suspicion

    def suspect(self, stamp: Stamp, accuser: int, *, sender: int = 0) -> None:
        """Hear that ``accuser`` had no answer of that life."""
        pool = self._pool
        if stamp.member == pool.me.member:
            self._accused(stamp, sender, over=False)
            return
        entry = self._accusable(stamp, Suspect(stamp, accuser))
        if entry is None:
            return
        if entry.state is State.SUSPECT:
            self._confirm(entry, accuser)
        elif not self._answered_for(entry):
            self._begin(entry, accuser)

    def pushed_accusation(self, stamp: Stamp, sender: int) -> None:
        """Hear out of somebody's table that a member is suspect or dead. Where it is alive here
        it is asked before it is suspected: when two halves of a pool meet, each lists the
        whole other half as dead."""
        entry = self._pool.table.get(stamp.member)
        if entry is not None and entry.state is State.ALIVE and stamp == entry.record.stamp:
            self._pool.ask(entry.record, Suspect(stamp, sender))
        else:
            self.suspect(stamp, sender, sender=sender)

    def unanswered(self, entry: Member, *, refused: bool) -> None:
        """Note that a probe of one's own had no answer; ``refused``: its host is there and says
        that nobody listens."""
        if not entry.live:
            return
        if entry.state is State.SUSPECT:
            self._confirm(entry, self._pool.me.member)
        else:
            self._begin(entry, self._pool.me.member)
        if refused:
            self._confirm(entry, REFUSAL)

    def _accusable(self, stamp: Stamp, accusation: Suspect | Dead) -> Member | None:
        """Return the living member that this accuses, if it is of its listed word."""
        pool = self._pool
        entry = pool.table.get(stamp.member)
        if entry is None or not entry.live:
            return None
        known = entry.record.stamp
        if stamp < known:
            pool.refuse("stale")
            return None
        if stamp > known:
            pool.ask(entry.record, accusation)
            return None
        return entry

    def _answered_for(self, entry: Member) -> bool:
        """Whether the member answered here, a moment ago, for the word that is accused."""
        pool = self._pool
        if entry.cleared != entry.record.stamp or pool.now_us >= entry.cleared_until_us:
            return False
        if entry.reminded_us is None or (
            pool.now_us - entry.reminded_us >= pool.config.probe_timeout_us
        ):
            # It has to know, for only its own word will convince the others.
            entry.reminded_us = pool.now_us
            accusation = Suspect(entry.record.stamp, pool.me.member)
            pool.send(entry.address, accusation, gossip=False)
        return True

    def _begin(self, entry: Member, accuser: int) -> None:
        pool = self._pool
        member = entry.record.member
        entry.suspicion = Suspicion(
            pool.config, members=pool.table.count, accuser=accuser,
            started_us=pool.now_us, alone=pool.alone(member),
        )  # fmt: skip
        previous = entry.state
        suspicion = entry.suspicion
        pool.table.change(entry, State.SUSPECT, pool.now_us)
        pool.counters.suspicions += 1
        pool.agenda.set(("suspect", member), suspicion.deadline_us())
        pool.emit(MemberChanged(entry.record, State.SUSPECT, previous))
        pool.tell(Suspect(entry.record.stamp, accuser))

    def _confirm(self, entry: Member, accuser: int) -> None:
        pool, suspicion = self._pool, entry.suspicion
        if suspicion is None or not suspicion.confirm(accuser):
            return
        pool.counters.confirmations += 1
        key = ("suspect", entry.record.member)
        # It may have been put off since, by a late timer.
        pool.agenda.set(key, min(suspicion.deadline_us(), pool.agenda.due_us(key) or pool.now_us))
        if accuser != REFUSAL:
            pool.tell(Suspect(entry.record.stamp, accuser))

    def answered(self, entry: Member, stamp: Stamp) -> None:
        """Note a member's own answer for that word: it ends a suspicion here, at once."""
        pool = self._pool
        known = entry.record.stamp
        if (
            entry.state is not State.SUSPECT
            or stamp < known
            or (stamp.generation != known.generation)
        ):
            return
        pool.agenda.cancel(("suspect", known.member))
        pool.table.change(entry, State.ALIVE, pool.now_us)
        pool.queue.forget(known.member)
        entry.cleared = known
        # As long as the rumour may still be on its way.
        entry.cleared_until_us = pool.now_us + minimum_us(pool.config, pool.table.count)
        pool.counters.cleared += 1
        pool.emit(MemberChanged(entry.record, State.ALIVE, State.SUSPECT))

    # -------------------------------------------------------------- death and farewell

    def dead(self, stamp: Stamp, accuser: int, *, sender: int = 0) -> None:
        """Hear that a life is over."""
        pool = self._pool
        if stamp.member == pool.me.member:
            self._accused(stamp, sender, over=True)
            return
        if stamp.member == accuser:
            self._farewell(stamp)
            return
        entry = self._accusable(stamp, Dead(stamp, accuser))
        if entry is None:
            return
        if entry.suspicion is not None and entry.suspicion.credible(pool.now_us):
            self.die(entry, accuser)
            return
        self.suspect(stamp, accuser)
        if entry.state is State.SUSPECT:
            pool.recheck(entry)

    def _farewell(self, stamp: Stamp) -> None:
        # Asked even at first hand: neither a packet's sender nor its source is proof.
        pool = self._pool
        entry = pool.table.get(stamp.member)
        if entry is None or entry.state is State.LEFT:
            return
        if stamp < entry.record.stamp:
            pool.refuse("stale")
        elif entry.state is State.DEAD and stamp.generation == entry.record.generation:
            self.leave(entry)
        else:
            pool.ask(entry.record, Dead(stamp, stamp.member))

    def die(self, entry: Member, accuser: int) -> None:
        """Call a member dead, and tell everybody."""
        pool = self._pool
        if entry.damping is None:
            entry.damping = Damping(pool.config.flap_half_life_us, pool.config.flap_limit)
        entry.damping.charge(pool.now_us)
        pool.counters.deaths += 1
        self._end(entry, State.DEAD, Dead(entry.record.stamp, accuser))
        pool.agenda.set(("reap", entry.record.member), pool.now_us + pool.config.reap_dead_us)
        if ("remind", 0) not in pool.agenda:
            pool.agenda.set(("remind", 0), pool.now_us + pool.config.probe_interval_us)

    def leave(self, entry: Member) -> None:
        """Take a member's farewell, and pass it on."""
        pool = self._pool
        self._end(entry, State.LEFT, Dead(entry.record.stamp, entry.record.member))
        self._remember_soon()
        pool.agenda.set(("reap", entry.record.member), pool.now_us + pool.config.reap_left_us)

    def _end(self, entry: Member, state: State, message: Dead) -> None:
        pool, previous = self._pool, entry.state
        pool.agenda.cancel(("suspect", entry.record.member))
        pushed = pool.table.change(entry, state, pool.now_us)
        pool.emit(MemberChanged(entry.record, state, previous))
        pool.tell(message)
        for other in pushed:
            pool.agenda.cancel(("reap", other.record.member))
            pool.emit(MemberChanged(other.record, other.state, other.state, gone=True))

    def decide(self, accusation: Suspect | Dead) -> None:
        """Believe what was asked about and had no answer: a farewell as one, else as a suspicion
        of the word that is listed."""
        entry = self._pool.table.get(accusation.stamp.member)
        if entry is None or entry.state is State.LEFT:
            return
        if isinstance(accusation, Dead) and accusation.left:
            # Who was called dead meanwhile has left all the same, if it is that life which did.
            of_this_life = accusation.stamp.generation == entry.record.generation
            if of_this_life or (entry.live and accusation.stamp > entry.record.stamp):
                self.leave(entry)
        elif not entry.live:
            return
        elif entry.state is State.ALIVE:
            self._begin(entry, accusation.accuser)
        else:
            self._confirm(entry, accusation.accuser)
